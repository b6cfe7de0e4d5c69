"""Request bodies: how much may come, how fast, and how it is packed."""
