"""What was used and what it cost: by the hour, in reports, as files and over HTTP."""
