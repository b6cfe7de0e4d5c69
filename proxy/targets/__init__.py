"""How each target is doing: load, speed, failures, circuit breaker; and which one a request is sent to."""
