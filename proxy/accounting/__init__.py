"""Step 7: what a call was and cost becomes a row, and its limits are settled."""
