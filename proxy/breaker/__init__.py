"""How each target is doing: load, speed, failures, circuit breaker; told to other processes."""
