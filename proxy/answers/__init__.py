"""Step 6: the answer on its way to the caller, whole or as a stream."""
