"""An append-only log on local disk; what is in it survives kill -9."""
