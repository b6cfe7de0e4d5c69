"""Prices that were unknown when a call was made."""
