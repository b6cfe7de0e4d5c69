"""The two doors: what turns bytes of HTTP into a call for the engine, and its answer into bytes."""
