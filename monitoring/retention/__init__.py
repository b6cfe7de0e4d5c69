"""How long rows are kept, and how they go."""
