"""Incidents of the status page."""
