"""The values of one request on its way through the engine."""
