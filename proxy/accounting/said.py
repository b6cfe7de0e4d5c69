"""A provider's own words about a failure, for the log row: without what they repeat of the request."""

import json

from django.conf import settings

MOST_CHARACTERS = 500
PIECE = 20  # characters; a piece of the request this long is taken out
BLOCK = PIECE // 2  # every such piece has one of these at a multiple of its own length
VERIFIED_BYTES = 256 * 1024  # of a request up to which a block's surroundings are looked at, too
SEARCHED_BYTES = 4 * 1024 * 1024
GONE = "[...]"


def shown(said: str, request: bytes, *, keeps_content: bool) -> str:
    """At most 500 characters; empty where PROVIDER_WORDS drops them.

    `keeps_content`: the route keeps whole requests anyway, so nothing is taken out.
    """
    if settings.PROVIDER_WORDS == "drop":
        return ""
    said = said[:MOST_CHARACTERS]
    if keeps_content or not said:
        return said
    return GONE if len(request) > SEARCHED_BYTES else _without(said, request)


def _without(said: str, request: bytes) -> str:
    gone = [False] * len(said)
    for at in range(0, len(said) - BLOCK + 1, BLOCK):
        if _stands_in(said[at : at + BLOCK], request):
            for start in _pieces(said, at, request):
                gone[start : start + PIECE] = [True] * len(gone[start : start + PIECE])
    kept = [
        GONE if gone[at] and not (at and gone[at - 1]) else "" if gone[at] else said[at]
        for at in range(len(said))
    ]
    return "".join(kept)


def _pieces(said: str, block: int, request: bytes) -> list[int]:
    """Where the pieces begin that have this block in them and stand in the request."""
    starts = range(max(block - BLOCK, 0), min(block, len(said) - PIECE) + 1)
    if len(request) > VERIFIED_BYTES:  # too much to look closer: rather too much than too little
        return list(starts)
    return [start for start in starts if _stands_in(said[start : start + PIECE], request)]


def _stands_in(text: str, request: bytes) -> bool:
    """JSON writes other letters than ASCII in two ways."""
    plain = json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "replace")
    escaped = json.dumps(text)[1:-1].encode()
    return plain in request or (escaped != plain and escaped in request)
