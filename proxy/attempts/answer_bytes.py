"""What a provider says about the bytes of an answer: coding, charset, and whether it is a stream at all."""

from proxy.sse import BOM
from proxy.transports.base import ConnectionBroken, UpstreamResponse
from proxy.transports.coding import UnpackedResponse, coding_of

BLANKS = BOM + b" \t\r\n"
FIELDS = (b"data", b"event", b"id", b"retry", b":")  # of events; with a colon or a line's end behind


def may_begin_events(first: bytes) -> bool:
    """Also where the first line was cut in its first word."""
    begun = first.lstrip(BLANKS)[:5]
    return any(begun.startswith(field) or field.startswith(begun) for field in FIELDS)


def unpacked(response: UpstreamResponse, named: str) -> UpstreamResponse:
    """Raises ConnectionBroken where it can't be unpacked; an error's status counts all the same."""
    coding = coding_of(named)
    if not coding:
        return response
    try:
        return UnpackedResponse(response, coding)
    except ConnectionBroken:
        if 200 <= response.status < 300:
            raise
        return response


def as_utf8(body: bytes, kind: str) -> bytes:
    """JSON is UTF-8, but some providers name and send another charset."""
    named = kind.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    if named in ("", "utf-8", "utf8") or "puny" in named or "idna" in named:  # no charsets, and slow
        return body
    try:
        return body.decode(named).encode()
    except (LookupError, UnicodeError):
        return body  # whoever reads it says what is wrong with it


def last_data(parts: list[bytes]) -> bytes:
    """Of a stream's last event that has any."""
    lines = [line[5:].strip() for line in b"".join(parts).splitlines() if line.startswith(b"data:")]
    return next((data for data in reversed(lines) if data[:1] == b"{"), b"")
