"""Reads what accounting needs from a stream while its bytes pass by unchanged."""

from collections.abc import Callable
from typing import Any

import msgspec

from proxy.reported_usage import ReportedUsage
from proxy.usage import Usage

DONE = b"data: [DONE]\n\n"
NEWLINE = ord("\n")  # a byte is found many times sooner by its number than as bytes
LONGEST_LINE = 1024 * 1024  # bytes; a longer one (an image, say) passes without being looked at
NULL = msgspec.Raw(b"null")
EMPTY = 2  # the quotes of a text


class _Delta(msgspec.Struct, gc=False):
    content: msgspec.Raw = NULL  # raw: only its length counts
    reasoning_content: msgspec.Raw = NULL


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None
    delta: _Delta | None = None


class _Inner(msgspec.Struct, gc=False):
    usage: ReportedUsage | None = None


class _Event(msgspec.Struct, gc=False):
    """Of chat completions; in those of other APIs the usage may be one step deeper."""

    choices: list[_Choice] | None = None
    usage: ReportedUsage | None = None
    error: msgspec.Raw = NULL
    type: Any = None
    response: _Inner | str | None = None
    message: _Inner | str | None = None


TERMINAL = ("response.completed", "response.incomplete", "response.failed", "message_stop")
"""Events that end the answers of the Responses and Messages APIs."""


_event = msgspec.json.Decoder(_Event)


def _decoded(data: list[bytes]) -> list[_Event] | None:
    """What several events carry, decoded together; None where they must be read one by one."""
    for line in data:
        if NEWLINE in line:
            return None
    try:
        events = _event.decode_lines(b"\n".join(data))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return events if len(events) == len(data) else None  # else one went on in the next


class StreamReader:
    """Finds usage, an error event, malformed events and the end, wherever the chunks are cut.

    Source: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html.
    `on_event` gets the data of each good event.
    """

    __slots__ = (
        "_data",
        "_on_event",
        "_reported",
        "_skipping",
        "done",
        "failed",
        "finished",
        "malformed",
        "rest",
        "size",
        "usage",
    )

    def __init__(self, on_event: Callable[[bytes], None] | None = None) -> None:
        self.usage: Usage | None = None
        self.done = False  # saw data: [DONE]
        self.finished = False  # saw a finish_reason
        self.failed = False  # saw an error event
        self.malformed = False  # saw data that is no JSON
        self.size = 0  # bytes of text, as far as an estimate needs it
        self._reported: ReportedUsage | None = None
        self._on_event = on_event
        self.rest = b""  # a line that is not whole yet
        self._skipping = False  # until the end of a line that is too long
        self._data: list[bytes] = []  # of an event whose JSON goes on over several lines

    def feed(self, chunk: bytes) -> int:
        """How many bytes of the chunk are good: all, unless an event in it is malformed."""
        # The usual case, read in fewer steps: nothing but whole events of one line each.
        plain = chunk[:6] == b"data: " and chunk[-2:] == b"\n\n"
        if plain and not (self.rest or self._data or self._skipping) and self._read_plain(chunk):
            return len(chunk)
        start = self._skip_long_line(chunk) if self._skipping else 0
        before = len(self.rest)
        lines = self.rest + chunk[start:]
        end = lines.rfind(b"\n") + 1
        self._keep_rest(lines[end:])
        at = begun = 0
        for line in lines[:end].splitlines(keepends=True):
            if not self._data:
                begun = at
            self._read(line)
            if self.malformed:
                return start + max(begun - before, 0)
            at += len(line)
        return len(chunk)

    def _read_plain(self, chunk: bytes) -> bool:
        """False, and nothing is noted, where the chunk must be read line by line."""
        if chunk.find(b"\n") != len(chunk) - 2:
            return self._read_events(chunk[6:-2].split(b"\n\ndata: "))
        data = chunk[6:-2]
        if data == b"[DONE]":
            self.done = True
            return True
        try:
            event = _event.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        self._note(event, data)
        return True

    def _read_events(self, data: list[bytes]) -> bool:
        """The same of several events."""
        done = data[-1] == b"[DONE]"
        if done:
            data.pop()
        events = _decoded(data) if data else []
        if events is None:
            return False
        for event, its_data in zip(events, data, strict=True):
            self._note(event, its_data)
        self.done = self.done or done
        return True

    def _keep_rest(self, rest: bytes) -> None:
        self._skipping = len(rest) > LONGEST_LINE
        self.rest = b"" if self._skipping else rest

    def _skip_long_line(self, chunk: bytes) -> int:
        """Where the line after one that is too long to be looked at begins."""
        end = chunk.find(b"\n") + 1
        self._skipping = not end
        return end or len(chunk)

    def end(self) -> None:
        """The upstream closed: what is left is a line too."""
        rest, self.rest = self.rest, b""
        if rest:
            self._read(rest)

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end; a cut one must never look like a success."""
        return (self.done or self.finished) and not self.malformed

    def _read(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._take(line[5:].strip())
        elif self._data and not line.strip():
            self.malformed = True  # the event is over, and its data was no JSON

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]" or not data:
            self.done = self.done or bool(data)
            return
        if self._data:
            data = b"\n".join((*self._data, data))
        try:
            event = _event.decode(data)
        except msgspec.ValidationError:
            event = _Event()  # JSON, but not of the shape that we know
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._data = [data]  # it may go on in the next line
            return
        self._data = []
        self._note(event, data)

    def _note(self, event: _Event, data: bytes) -> None:
        text = 0
        for choice in event.choices or ():
            if choice.finish_reason:  # some providers send "" with each chunk
                self.finished = True
            if (delta := choice.delta) is not None:
                text += len(delta.content) - EMPTY
                if delta.reasoning_content is not NULL:
                    text += len(delta.reasoning_content) - len(NULL)
        # A delta is at least about one token, which is about four bytes.
        self.size += text if text > 4 else 4
        if event.usage is not None:
            self._take_usage(event.usage)
        if event.type is not None:
            self._note_other_api(event)
        if event.error is not NULL and bytes(event.error) != b"null":
            self.failed = True
        if self._on_event is not None:
            self._on_event(data)

    def _take_usage(self, usage: ReportedUsage) -> None:
        """What a later event says holds: counts may grow with each."""
        self._reported = usage.after(self._reported)
        self.usage = self._reported.tokens() or self.usage

    def _note_other_api(self, event: _Event) -> None:
        for inner in (event.response, event.message):
            if isinstance(inner, _Inner) and inner.usage is not None:
                self._take_usage(inner.usage)
        if event.type in TERMINAL:
            self.finished = True
            self.failed = self.failed or event.type == "response.failed"
