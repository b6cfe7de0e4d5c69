"""Health of providers: checks, live traffic, and what both found over time."""
