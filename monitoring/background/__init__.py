"""What works beside web: signs of life, restarts, locks, and tasks that run once."""
