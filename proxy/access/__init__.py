"""Step 1: whose call it is, and what strangers may do."""
