"""Which session a request belongs to, for strategies that keep sessions together."""

import msgspec

from proxy.calls.call import Call
from proxy.json_bounds import UNREADABLE

LONGEST = 512  # bytes; what is longer is cut

_string = msgspec.json.Decoder(str)  # what is no string is not built


def session_of(call: Call) -> str:
    """x-session-id, else the body's user, else the key; apart for each route."""
    assert call.route is not None
    return f"{call.route.route.id}:{_named(call)}"


def _named(call: Call) -> str:
    if header := call.incoming.text(b"x-session-id"):
        return f"session:{header[:LONGEST]}"
    raw = call.ask.fields.get("user") if call.ask is not None else None
    if raw is not None and (user := _text(bytes(raw))):
        return f"user:{user[:LONGEST]}"
    return f"key:{call.key.id if call.key is not None else ''}"


def _text(raw: bytes) -> str:
    try:
        value: str = _string.decode(raw)
    except UNREADABLE:
        return ""
    return value
