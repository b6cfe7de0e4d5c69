"""How a stream begins: what it is, is known at its first whole event with data, not at its first bytes."""

import asyncio
from enum import Enum

import msgspec

from proxy.attempts.answer_bytes import BLANKS, may_begin_events
from proxy.sse import BOM, LONGEST_EVENT, UNREADABLE, StreamReader
from proxy.transports.base import TransportTimeout, UpstreamResponse
from proxy.upstreams.deadline import Deadline, DeadlinePassed

MOST_BEFORE = 64 * 1024  # bytes before the first event
HEAD = 6  # bytes that tell events from what is none
NO_EVENT = "ended the stream before its first event"
ERROR = "began the stream with an error"
MALFORMED = "began the stream with a malformed event"
TOO_MUCH = f"sent more than {MOST_BEFORE:,} bytes before its stream's first event"
NO_STREAM = "answered 200 with what is neither an event stream nor JSON"


class Patience:
    """Clients have idle time-outs: from so many seconds of comments on, they get them as they come."""

    seconds = 15.0


class _Plain(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw]
    error: msgspec.Raw | None = None


_plain = msgspec.json.Decoder(_Plain)


def begins_plainly(chunk: bytes) -> bool:
    """The usual case: the first chunk begins with a whole event of one line, part of an answer."""
    end = chunk.find(b"\n")
    if chunk[:6] != b"data: " or chunk[end : end + 2] != b"\n\n":
        return False
    try:
        event = _plain.decode(chunk[6:end])
    except UNREADABLE:
        return False
    return event.error is None and len(event.choices) > 0


class Begins(Enum):
    NOT_YET = 0
    WITH_EVENT = 1
    WITH_JSON = 2  # a whole answer, whatever it is called
    WITH_FAULT = 3


class Opening:
    """Looks at a stream line by line up to its first event with data, and holds what came until then.

    Comments, pings and events without data are none. An event is whole when another line begins behind it.
    """

    __slots__ = (
        "_before",
        "_event",
        "_first_line",
        "_half",
        "_head",
        "_noted",
        "_probe",
        "_waiting",
        "begins",
        "due",
        "fault",
        "held",
    )

    def __init__(self) -> None:
        self.begins = Begins.NOT_YET
        self.fault = ""
        self.held: list[bytes] = []
        self.due: float | None = None  # by the clock of the event loop: until then it must have begun
        self._probe = StreamReader()
        self._head = b""  # its first bytes but blanks
        self._half: list[bytes] = []  # of a line that is not whole yet
        self._waiting = 0  # bytes of it
        self._first_line = True
        self._before = 0  # bytes before the first event
        self._event = 0  # bytes of the event that is not over; no event is worth none of them
        self._noted = False  # the first event's JSON is here

    @property
    def are_events(self) -> bool:
        """Whether it is known by now that it is an event stream."""
        return len(self._head) >= HEAD

    async def wait(self, response: UpstreamResponse) -> None:
        """Until it is decided. Who was cancelled may wait again. Raises TransportFault."""
        while self.begins is Begins.NOT_YET:
            self.hold(await response.next_chunk())

    def hold(self, chunk: bytes) -> None:
        if chunk:
            self.held.append(chunk)
        self.take(chunk)

    async def next_chunk(self, response: UpstreamResponse) -> bytes:
        """The next one of a stream that is on its way to the client. Raises TransportFault."""
        self.held, self._before = [], 0
        if self.due is None:
            return await response.next_chunk()
        try:
            with Deadline(self.due - asyncio.get_running_loop().time()):
                return await response.next_chunk()
        except DeadlinePassed:
            raise TransportTimeout("sent no event in time") from None

    def hurry(self, due: float) -> None:
        self.due = due if self.due is None else min(due, self.due)

    def take(self, chunk: bytes) -> None:
        """b"" at the end."""
        if not chunk:
            return self._end()
        if len(self._head) < HEAD:
            self._head = (self._head + (chunk if self._head else chunk.lstrip(BLANKS)))[:HEAD]
            if self._head and not may_begin_events(self._head):
                if self._head[:1] in (b"{", b"["):
                    self.begins = Begins.WITH_JSON
                    return None
                return self._fail(NO_STREAM)
        self._half.append(chunk)
        if b"\n" in chunk:
            return self._take_lines(b"".join(self._half))
        self._waiting += len(chunk)
        return self._look_at_half()

    def _take_lines(self, lines: bytes) -> None:
        at = 0
        while self.begins is Begins.NOT_YET and (end := lines.find(b"\n", at) + 1):
            self._take_line(lines[at:end])
            at = end
        rest = lines[at:]
        self._half, self._waiting = [rest] if rest else [], len(rest)
        self._look_at_half()

    def _look_at_half(self) -> None:
        """A line may be too long to be waited for."""
        if self._waiting <= MOST_BEFORE or self.begins is not Begins.NOT_YET:
            return
        if b"".join(self._half[:HEAD])[:5] != b"data:":
            self._fail(TOO_MUCH)
        elif self._waiting > LONGEST_EVENT:
            self.begins = Begins.WITH_EVENT  # it passes unread

    def _take_line(self, line: bytes) -> None:
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(BOM)
        if self._noted:
            self.begins = Begins.WITH_EVENT
        elif line[:5] == b"data:" or line[:6] == b"event:":
            self._event += len(line)
            self._probe.feed(line)
            self._judge()
        elif self._event and not line.strip():
            self._probe.feed(line)
            self._before += self._event + len(line)
            self._event = 0
            self._judge()
        else:
            self._before += len(line)
        too_much = self._before > MOST_BEFORE or self._event > LONGEST_EVENT
        if too_much and not self._noted and self.begins is Begins.NOT_YET:
            self._fail(TOO_MUCH)

    def _judge(self) -> None:
        probe = self._probe
        if probe.failed:
            self._fail(ERROR)
        elif probe.malformed:
            self._fail(MALFORMED)
        elif probe.size:
            self._noted = True
        elif probe.done:
            self._fail(NO_EVENT)

    def _end(self) -> None:
        self._take_lines(b"".join((*self._half, b"\n\n\n")))
        if self.begins is Begins.NOT_YET:
            self._fail(NO_EVENT)

    def _fail(self, fault: str) -> None:
        self.begins, self.fault = Begins.WITH_FAULT, fault
