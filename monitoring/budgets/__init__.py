"""Budgets: what each has spent in its period, and in those before."""
