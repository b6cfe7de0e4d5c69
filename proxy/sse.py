"""Reads what accounting needs from a stream while its bytes pass by unchanged."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from proxy.dialects.openai.answer import is_error, without_halves
from proxy.metering.reported_usage import ReportedUsage, lenient
from proxy.metering.usage import Usage

DONE = b"data: [DONE]\n\n"
NEWLINE = ord("\n")  # a byte is found many times sooner by its number than as bytes
LONGEST_EVENT = 1024 * 1024  # bytes of data; a longer one (an image, say) passes without being read
MOST_LINES = 10_000  # of data, of one event; one of more passes in the same way
MOST_CHOICES = 1024  # of one answer that are followed
MOST_FIELDS = 1024  # of an event of another shape
LONGEST_USAGE = 65536  # bytes that are read of one that is of another shape
ENCODED = re.compile(rb";base64,|\"b64_json\"")  # what stands behind is an image or a sound, no text
IMAGE = 4 * 1290  # bytes of text that cost as much as an image (Gemini's count of tokens, four bytes each)
BOM = b"\xef\xbb\xbf"
KEEPS_WARM = (b"ping", b"heartbeat", b"keepalive", b"keep-alive")
"""Names of events that only keep a connection open: their data is nothing."""
TYPES_OF_PINGS = ("ping", "keepalive", "heartbeat")
NAMED = frozenset((*KEEPS_WARM, b"error"))
_MAY_MATTER = re.compile(rb"\n\s|\r(?!\n)|data:\s*[\[{]|event:")
"""Inside of an event that is not read: its end may be near, or one that follows without a blank line."""
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
NULL = msgspec.Raw(b"null")
EMPTY = 2  # the quotes of a text


class _Delta(msgspec.Struct, gc=False):
    content: msgspec.Raw = NULL  # raw: only its length counts
    reasoning_content: msgspec.Raw = NULL


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    delta: _Delta | None = None


class _Inner(msgspec.Struct, gc=False):
    usage: ReportedUsage | None = None


class _Event(msgspec.Struct, gc=False):
    """Of chat completions; in those of other APIs the usage may be one step deeper."""

    choices: list[_Choice] | None = None
    usage: ReportedUsage | None = None
    error: msgspec.Raw = NULL
    type: str | None = None
    response: _Inner | str | None = None
    message: _Inner | str | None = None
    x_groq: _Inner | None = None


TERMINAL = ("response.completed", "response.incomplete", "response.failed", "message_stop")
"""Events that end the answers of the Responses and Messages APIs."""


_NOTHING = _Event()
_event = msgspec.json.Decoder(_Event)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_anything = msgspec.json.Decoder()
_parts = msgspec.json.Decoder(list[msgspec.Raw])
_readers: dict[str, msgspec.json.Decoder[Any]] = {
    field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Event)
}
_choice_readers: dict[str, msgspec.json.Decoder[Any]] = {
    field.name: msgspec.json.Decoder(field.type) for field in msgspec.structs.fields(_Choice)
}


def _is_bare(event: _Event) -> bool:
    return not event.choices and event.error is NULL and event.usage is None


def _decoded(data: list[bytes]) -> list[_Event] | None:
    """What several events carry, decoded together; None where they must be read one by one."""
    for line in data:
        if NEWLINE in line:
            return None
    try:
        events = _event.decode_lines(b"\n".join(data))
    except UNREADABLE:
        return None
    return events if len(events) == len(data) else None  # else one went on in the next


def _read(data: bytes) -> _Event | None:
    """None where it is no JSON, or nested too deeply to be read."""
    try:
        return _event.decode(data)
    except msgspec.ValidationError:
        return _loosely(data)
    except UNREADABLE:
        return _read(mended) if (mended := without_halves(data)) != data else None


def _loosely(data: bytes) -> _Event:
    """JSON, but not of the shape that we know: what of it can be read, field by field."""
    if data[:1] != b"{":
        return _NOTHING
    fields = _decode(_fields, data) or {}
    if len(fields) > MOST_FIELDS:
        return _NOTHING
    found = _known(_readers, fields)
    if "choices" not in found:
        parts = _decode(_parts, fields.get("choices", NULL)) or ()
        found["choices"] = [_loose_choice(raw) for raw in parts[:MOST_CHOICES]]
    if "usage" not in found and len(usage := fields.get("usage", NULL)) <= LONGEST_USAGE:
        found["usage"] = lenient(_decode(_anything, usage))
    return _Event(**found)


def _loose_choice(data: msgspec.Raw) -> _Choice:
    return _Choice(**_known(_choice_readers, _decode(_fields, data) or {}))


def _known(readers: dict[str, msgspec.json.Decoder[Any]], fields: dict[str, msgspec.Raw]) -> dict[str, Any]:
    read = {name: _decode(reader, fields[name]) for name, reader in readers.items() if name in fields}
    return {name: value for name, value in read.items() if value is not None}


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes | msgspec.Raw) -> Any:
    """None where it is something else."""
    try:
        return decoder.decode(data)
    except UNREADABLE:
        return None


class StreamReader:
    """Finds usage, an error event, malformed events and the end, wherever the chunks are cut.

    Source: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html.
    `size` is 0 up to the first event that is more than a ping.
    An event is read once, when it is whole; what is longer than LONGEST_EVENT is not read at all.
    `on_event` gets the data of each good event.
    """

    __slots__ = (
        "_data",
        "_data_size",
        "_first_ends",
        "_first_seen",
        "_half",
        "_named",
        "_on_event",
        "_others",
        "_reported",
        "_skipping",
        "_terminal",
        "_unread",
        "done",
        "failed",
        "malformed",
        "size",
        "usage",
        "waiting",
    )

    def __init__(self, on_event: Callable[[bytes], None] | None = None) -> None:
        self.usage: Usage | None = None
        self.done = False  # saw data: [DONE]
        self.failed = False  # saw an error event
        self.malformed = False  # saw data that is no JSON
        self.size = 0  # bytes of text, as far as an estimate needs it
        self.waiting = 0  # bytes of a line that is not whole yet
        self._first_seen = self._first_ends = False  # choice 0; nearly all answers have no other one
        self._others: dict[int, bool] = {}  # whether a choice has ended, by its index
        self._terminal = False  # saw the last event of another API
        self._reported: ReportedUsage | None = None
        self._on_event = on_event
        self._half: list[bytes] | None = None  # the pieces of that line
        self._named = b""  # the event's name, if it is one of NAMED
        self._skipping = False  # until the end of a line that is too long
        self._unread = False  # until the end of an event that is too long
        self._data: list[bytes] = []  # of an event whose JSON goes on over several lines
        self._data_size = 0

    def feed(self, chunk: bytes) -> int:
        """How many bytes of the chunk are good: all, unless an event in it is malformed."""
        # The usual case, read in fewer steps: nothing but whole events of one line each.
        size = len(chunk)
        plain = chunk[:6] == b"data: " and chunk[-2:] == b"\n\n" and size <= LONGEST_EVENT
        inside = self.waiting or self._data or self._unread or self._named
        if plain and not inside and self._read_plain(chunk):
            return size
        return self._read_lines(chunk, size)

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
        except UNREADABLE:
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

    def _read_lines(self, chunk: bytes, size: int) -> int:
        """What feed() does, line by line."""
        start = self._skip_long_line(chunk) if self._skipping else 0
        end = chunk.rfind(b"\n", start) + 1
        if end > start:
            before = self.waiting
            good = self._read_whole_lines(self._with_half(chunk[start:end]))
            if self.malformed:
                return start + max(good - before, 0)
            self._keep(chunk[end:])
        else:
            self._keep(chunk[start:])
        return size

    def _read_whole_lines(self, lines: bytes) -> int:
        """How many bytes stand before the event that is malformed; all where none is."""
        if self._unread and not self._named and not lines[:1].isspace() and not _MAY_MATTER.search(lines):
            return len(lines)
        at = begun = 3 if lines[:3] == BOM else 0
        for line in lines[at:].splitlines(keepends=True):
            if line[:5] == b"data:":
                if not self._data:
                    begun = at
                if self._named:
                    self._take_named(line[5:].strip())
                else:
                    self._take(line[5:].strip())
            elif (self._data or self._unread or self._named) and not line.strip():
                self._end_event()
                if self.malformed:
                    return begun
            elif line[:6] == b"event:":
                name = line[6:].strip()
                self._named = name if name in NAMED else b""
            at += len(line)
        return at

    def _with_half(self, lines: bytes) -> bytes:
        if self.waiting:
            lines = b"".join((*(self._half or ()), lines))
            self._half, self.waiting = None, 0
        return lines

    def _keep(self, piece: bytes) -> None:
        """Of a line that is not whole yet: only looked at again when it is."""
        if not piece:
            return
        if self._half is None:
            self._half = []
        self._half.append(piece)
        self.waiting += len(piece)
        if self.waiting > LONGEST_EVENT:
            self._skipping = True
            self._leave_unread(self._with_half(b""))

    def _skip_long_line(self, chunk: bytes) -> int:
        """Where the line after one that is too long to be looked at begins."""
        end = chunk.find(b"\n") + 1
        self._skipping = not end
        return end or len(chunk)

    def _leave_unread(self, begun: bytes) -> None:
        """The event is too long to be read: it passes, and its text is estimated."""
        self._unread = True
        self._data = []
        self.size += IMAGE if ENCODED.search(begun) else len(begun)

    def end(self) -> None:
        """The upstream closed: what is left is a line too, and its event is over."""
        if self.waiting:
            self._read_whole_lines(self._with_half(b""))
        if self._data and (event := self._decoded_data()) is not None:
            self._note(*event)

    @property
    def passes_unread(self) -> bool:
        """Whether it is in the middle of an event that is too long to be read."""
        return self._unread

    @property
    def finished(self) -> bool:
        """Whether each choice that began has its finish_reason."""
        if self._terminal:
            return True
        if self._others and not all(self._others.values()):
            return False
        return self._first_ends or (bool(self._others) and not self._first_seen)

    @property
    def whole(self) -> bool:
        """Whether the answer came to its end; a cut one must never look like a success."""
        return (self.done or self.finished) and not self.malformed

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]" or not data:
            self.done = self.done or bool(data)
        elif self._data:
            self._go_on(data)
        elif len(data) > LONGEST_EVENT:
            self._leave_unread(data)
        elif self._unread and data[:1] != b"{":
            return  # more of that event
        elif (event := _read(data)) is not None:
            self._note(event, data)
        elif not self._unread:  # else it is more of that event
            self._data, self._data_size = [data], len(data)

    def _take_named(self, data: bytes) -> None:
        if self._named not in KEEPS_WARM and data:
            self.failed = True  # whatever it says, and in whatever shape

    def _go_on(self, data: bytes) -> None:
        """One more line of an event: its JSON is read when all are here."""
        self._data.append(data)
        self._data_size += len(data)
        if self._data_size > LONGEST_EVENT or len(self._data) > MOST_LINES:
            self._leave_unread(b"".join(self._data))

    def _end_event(self) -> None:
        self._unread, self._named = False, b""
        if not self._data:
            return
        event = self._decoded_data()
        if event is None:
            self.malformed = True
        else:
            self._note(*event)

    def _decoded_data(self) -> tuple[_Event, bytes] | None:
        """Of an event of several lines; one alone was no JSON when it came."""
        lines, self._data = self._data, []
        data = b"\n".join(lines)
        event = _read(data) if len(lines) > 1 else None
        return None if event is None else (event, data)

    def _note(self, event: _Event, data: bytes) -> None:
        if event.type is not None and event.type in TYPES_OF_PINGS and _is_bare(event):
            return
        text = 0
        for choice in event.choices or ():
            if choice.index:
                self._note_other_choice(choice)
            else:
                self._first_seen = True
                if choice.finish_reason:  # some providers send "" with each chunk
                    self._first_ends = True
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
        if event.x_groq is not None and event.x_groq.usage is not None:
            self._take_usage(event.x_groq.usage)
        if event.error is not NULL and bytes(event.error) != b"null" and is_error(event.error):
            self.failed = True
        if self._on_event is not None:
            self._on_event(data)

    def _note_other_choice(self, choice: _Choice) -> None:
        if choice.index in self._others or len(self._others) < MOST_CHOICES:
            ended = bool(choice.finish_reason)
            self._others[choice.index] = ended or self._others.get(choice.index, False)

    def _take_usage(self, usage: ReportedUsage) -> None:
        """What a later event says holds: counts may grow with each."""
        self._reported = usage.after(self._reported)
        self.usage = self._reported.tokens() or self.usage

    def _note_other_api(self, event: _Event) -> None:
        for inner in (event.response, event.message):
            if isinstance(inner, _Inner) and inner.usage is not None:
                self._take_usage(inner.usage)
        if event.type in TERMINAL:
            self._terminal = True
            self.failed = self.failed or event.type == "response.failed"
