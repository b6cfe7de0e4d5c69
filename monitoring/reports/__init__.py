"""Scheduled reports: which are due (due), made as a file (making), sent until it is taken (sending)."""
