"""Step 5: one target after the other, until one answers or the deadline passes."""
