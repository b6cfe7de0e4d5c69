"""Logged content on its way from the journal to the database: read as it was meant, redacted, encrypted."""
