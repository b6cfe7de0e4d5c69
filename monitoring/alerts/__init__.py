"""Alerts: what is wrong (rules), once (raising), told to people (delivering, channels)."""
