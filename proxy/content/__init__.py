"""What was asked and answered, for keys and routes that want it kept; off by default."""
