"""Reads what accounting needs from a stream while its bytes pass by unchanged."""

import re

import msgspec

from proxy.usage import OpenAIUsage, Usage

_DONE = re.compile(rb"^data: ?\[DONE\]\s*$", re.MULTILINE)
# Some providers send "finish_reason": "" with each chunk. Inside a text the quotes would be escaped.
_FINISH = re.compile(rb'"finish_reason"\s*:\s*"[^"]')
LONGEST_LINE = 1024 * 1024  # bytes kept of an unfinished line


class _Event(msgspec.Struct):
    usage: OpenAIUsage | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


_event = msgspec.json.Decoder(_Event)


class StreamReader:
    """Finds usage, an error event and the end, wherever the chunks are cut.

    Source: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html.
    """

    __slots__ = ("_rest", "done", "failed", "finished", "size", "usage")

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.done = False  # saw data: [DONE]
        self.finished = False  # saw a finish_reason
        self.failed = False  # saw an error event
        self.size = 0  # bytes of text, as far as an estimate needs it
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        lines = self._rest + chunk if self._rest else chunk
        if lines.endswith(b"\n"):
            self._rest = b""
        else:
            cut = lines.rfind(b"\n") + 1
            self._rest = lines[cut:][-LONGEST_LINE:]
            lines = lines[:cut]
        self._look(lines)

    def end(self) -> None:
        """The upstream closed: what is left is a line too."""
        self._look(self._rest)
        self._rest = b""

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end; a cut one must never look like a success."""
        return self.done or self.finished

    def _look(self, lines: bytes) -> None:
        # One delta is about one token, and about four bytes.
        self.size += 4 * lines.count(b"data:")
        if b"[DONE]" in lines and _DONE.search(lines):
            self.done = True
        if b'"finish_reason"' in lines and not self.finished:
            self.finished = _FINISH.search(lines) is not None
        if b'"usage"' in lines or b'"error"' in lines:
            for line in lines.splitlines():
                self._read(line)

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:") or (b'"usage"' not in line and b'"error"' not in line):
            return
        try:
            event = _event.decode(line[5:])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # the client sees the same malformed event; there is nothing to account in it
        if event.usage is not None:
            self.usage = event.usage.tokens() or self.usage
        if bytes(event.error) != b"null":
            self.failed = True
