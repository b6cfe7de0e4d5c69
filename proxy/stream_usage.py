"""Streams are asked for their usage where the caller did not ask, and the caller is not told of it."""

import re
from typing import Any

import msgspec
from msgspec.structs import replace

from proxy.ask import ChatAsk
from proxy.json_bounds import UNREADABLE

OPTIONS = "stream_options"
_ONLY_USAGE = msgspec.Raw(b'{"include_usage":true}')
_object = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.encode
LONGEST_USAGE = 65536  # bytes; a longer event tells of more than usage
_NULL = re.compile(rb',\s*"usage"\s*:\s*null(?=\s*[,}])|"usage"\s*:\s*null\s*,\s*')
"""Inside a text its quotes would be escaped, so this is a field."""


def asking(ask: ChatAsk, defaults: tuple[tuple[str, bytes], ...]) -> ChatAsk | None:
    """The same question with its usage asked for; None where the caller, or the route for him, asks already.

    What is no object stays as it is: the provider says what is wrong with it.
    """
    given = ask.fields.get(OPTIONS)
    raw = bytes(given) if given is not None else b"null"
    if raw == b"null":
        raw = dict(defaults).get(OPTIONS, b"null")
    options = _ONLY_USAGE if raw == b"null" else _with_usage(raw)
    return None if options is None else replace(ask, fields=ask.fields | {OPTIONS: options})


def _with_usage(raw: bytes) -> msgspec.Raw | None:
    try:
        options = _object.decode(raw)
    except UNREADABLE:
        return None
    if options.get("include_usage"):
        return None
    return msgspec.Raw(_encode(options | {"include_usage": True}))


class UsageFilter:
    """Takes out of a stream what only came because its usage was asked for: nothing else is changed."""

    __slots__ = ("_blank_goes",)

    def __init__(self) -> None:
        self._blank_goes = False  # the blank line that ends an event which was taken out

    def take(self, lines: bytes) -> bytes:
        """Whole lines, or what of them came last."""
        # Not `in`, which first takes the bytes for a number and fails: twice the time, for every chunk.
        if lines.find(b'"usage"') < 0 and not self._blank_goes:
            return lines
        lines = lines.replace(b',"usage":null', b"")
        if b'"usage"' not in lines and not self._blank_goes:
            return lines
        lines = _NULL.sub(b"", lines)
        return b"".join([line for line in lines.splitlines(keepends=True) if self._stays(line)])

    def _stays(self, line: bytes) -> bool:
        if self._blank_goes:
            self._blank_goes = False
            if not line.strip():
                return False
        told = len(line) < LONGEST_USAGE and b'"usage"' in line and line.startswith(b"data:")
        if told and _tells_only_usage(line[5:]):
            self._blank_goes = True
            return False
        return True


def _tells_only_usage(data: bytes) -> bool:
    try:
        event = _object.decode(data)
    except UNREADABLE:
        return False
    return not event.get("choices") and event.get("usage") is not None and not event.get("error")
