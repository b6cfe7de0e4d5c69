"""Tokens as providers report them, and what they cost."""
