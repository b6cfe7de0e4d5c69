"""The request log: its rows' checksums, its pages, and lines for those who collect logs."""
