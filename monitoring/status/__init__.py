"""The status page: what works for callers, in the names that callers use."""
