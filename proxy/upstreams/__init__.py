"""Pools of connections to providers, who waits for one, and for how long."""
