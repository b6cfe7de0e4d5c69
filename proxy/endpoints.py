"""Data-plane paths: three base paths, one set of endpoints."""

import re

BASES = ("/v1", "/api/llm", "")
CHAT_COMPLETIONS = "chat/completions"
POST_ENDPOINTS = (CHAT_COMPLETIONS,)
POST_URLS = {
    f"{base}/{endpoint}{end}".encode(): endpoint
    for base in BASES
    for endpoint in POST_ENDPOINTS
    for end in ("", "/")
}
"""Exact path -> endpoint; a dictionary, as the fast lane looks up each request here."""

UNKNOWN = "unknown"
"""What rows and metrics say of a path that is no endpoint: never a caller's own words."""
_PLANNED = re.compile(
    r"^(?:/v1|/api/llm|/openai/v1)?/(?:completions|responses(?:/.*)?|messages(?:/count_tokens)?|embeddings|rerank"
    r"|moderations|(?:files|batches)(?:/.*)?|images/(?:generations|edits|variations)|model/info"
    r"|audio/(?:speech|transcriptions|translations))/?\Z"
    r"|^/v1beta/models/.+|^/openai/deployments/.+|^/openai/v1/.+|^/passthrough/.+",
    re.DOTALL,
)


def is_planned(path: str) -> bool:
    """Whether it will be an endpoint, of a release to come."""
    return _PLANNED.match(path) is not None


def shape_of(path: str) -> str:
    """Whose clients call it, and read its errors."""
    if path.startswith("/v1beta/"):
        return "gemini"
    return "anthropic" if "/messages" in path else "openai"
