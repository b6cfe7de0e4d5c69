"""Data-plane paths: three base paths, one set of endpoints."""

BASES = ("/v1", "/api/llm", "")
CHAT_COMPLETIONS = "chat/completions"
POST_ENDPOINTS = (CHAT_COMPLETIONS,)
POST_URLS = {f"{base}/{endpoint}".encode(): endpoint for base in BASES for endpoint in POST_ENDPOINTS}
"""Exact path -> endpoint; a dictionary, as the fast lane looks up each request here."""
