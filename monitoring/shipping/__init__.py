"""From the journal to the database: the shipper, what it stores, and how far it is."""
