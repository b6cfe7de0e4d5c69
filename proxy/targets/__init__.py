"""Step 3: which route a call is for, and in which order its targets are asked."""
