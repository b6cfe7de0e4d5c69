"""One call's content while it is served: the bytes as they were, up to a limit."""

import re
from typing import Any

import msgspec

from proxy.calls.call import Call
from proxy.json_bounds import UNREADABLE, size_of
from routing.secret_headers import SHORTEST_SEARCHED, is_secret
from routing.table import CONTENT_NEVER, CONTENT_OFF

LONGEST_SCALAR = 40  # bytes
MOST_READ = 4 * 1024 * 1024  # bytes of messages whose roles are counted
REDACTED = b"[redacted]"
_FINISH_REASON = re.compile(rb'"(?:finish_reason|stop_reason)"\s*:\s*"([a-z_]{1,40})"')


class _Role(msgspec.Struct):
    role: str = ""


_scalar = msgspec.json.Decoder(bool | int | float | None)
_roles = msgspec.json.Decoder(list[_Role])


def level_of(call: Call) -> int:
    """The larger of what its key and its routes say; off where any of them says never."""
    routes = [found.route for found in (call.route, call.fell_back_from) if found is not None]
    levels = [route.content for route in routes] + ([call.key.content] if call.key is not None else [])
    if CONTENT_NEVER in levels or call.shadow:
        return CONTENT_OFF
    return max(levels, default=CONTENT_OFF)


class Capture:
    """`limit` bytes of the answer are kept, and as many of the request."""

    __slots__ = ("_cut", "_parts", "_room", "answer_bytes", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = self._room = limit
        self.answer_bytes = 0
        self._parts: list[bytes] = []
        self._cut = False

    def add(self, chunk: bytes) -> None:
        self.answer_bytes += len(chunk)
        if len(chunk) > self._room:
            chunk, self._cut = chunk[: self._room], True
        if chunk:
            self._parts.append(chunk)
            self._room -= len(chunk)

    def texts(self, call: Call) -> tuple[bytes, bytes, bool]:
        """(request, answer, whether one of them was cut), without the credentials of this call."""
        credentials, body = _credentials(call), call.incoming.body
        request, answer = _cut_at(self.limit, body, credentials), b"".join(self._parts)
        for credential in credentials:
            request, answer = (text.replace(credential, REDACTED) for text in (request, answer))
        return request[: self.limit], answer, self._cut or len(body) > self.limit

    def facts(self, call: Call) -> dict[str, Any]:
        """What may be known of the call without a word of it."""
        fields = call.ask.fields if call.ask is not None else {}
        reasons = _FINISH_REASON.findall(b"".join(self._parts))
        return {
            "request_bytes": len(call.incoming.body),
            "answer_bytes": self.answer_bytes,
            "roles": _counted(fields.get("messages")),
            "parameters": {name: value for name, raw in fields.items() if (value := _plain(raw)) is not None},
            "finish_reason": reasons[-1].decode() if reasons else "",
        }


def _cut_at(end: int, body: bytes, credentials: list[bytes]) -> bytes:
    """Before a credential that the end would cut in two; to search all of a large body takes too long."""
    for credential in credentials:
        found = body.find(credential, max(end - len(credential) + 1, 0), end + len(credential) - 1)
        end = end if found < 0 else min(found, end)
    return body[:end]


def _credentials(call: Call) -> list[bytes]:
    """The longest first: it may contain the others."""
    headers = call.incoming.headers.items()
    given = [value for name, value in headers if is_secret(name.decode("latin-1"))]
    found = {value.rpartition(b" ")[2] for value in given}
    found.add(call.caller_credential.encode("latin-1", "replace"))
    for attempt in call.attempts:
        found.update(secret.encode("latin-1", "replace") for secret in attempt.target.provider.secrets)
    return sorted((one for one in found if len(one) >= SHORTEST_SEARCHED), key=len, reverse=True)


def _counted(messages: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    if messages is not None and size_of(messages) <= MOST_READ:
        for message in _roles.decode(messages):
            counts[message.role[:20]] = counts.get(message.role[:20], 0) + 1
    return counts


def _plain(raw: Any) -> Any:
    """Numbers and switches; None for all else."""
    if isinstance(raw, str) or size_of(raw) > LONGEST_SCALAR:  # text: the model's name, once it was asked
        return None
    try:
        return _scalar.decode(raw)
    except UNREADABLE:
        return None
