"""One HTTP/1.1 connection to a provider, parsed by llhttp (httptools). Source: RFC 9112."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any, cast

import httptools

from proxy.transports.base import (
    LONGEST_ERROR,
    ConnectionBroken,
    ConnectionStale,
    Sink,
    TransportFault,
    TransportTimeout,
)
from proxy.transports.collecting import collected
from proxy.transports.room import Room

HIGH_WATER = 256 * 1024  # bytes that wait for a slow client before the provider is held back; longest head
STALE_SECONDS = 1.0  # after that long the provider was working on the request
_KEPT_FOR = re.compile(r"timeout\s*=\s*(\d{1,6})", re.IGNORECASE)


class Http1Response:
    """Status, headers and body as they arrive. One task reads; the connection writes."""

    __slots__ = (
        "_connection",
        "_fault",
        "_sink",
        "_waiter",
        "chunks",
        "complete",
        "headers",
        "limit",
        "request",
        "size",
        "started",
        "status",
        "stream",
    )

    def __init__(self, connection: "Http1Connection", stream: bool) -> None:
        self.status = 0
        self.stream = stream
        self.started = False  # status and headers are here
        self.complete = False
        self._connection = connection
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.size = 0  # bytes that came and were not taken yet
        self.limit = HIGH_WATER  # of them, from which on bound() looks at it
        self.request: object = None  # what may go out again; nothing on a new connection
        self._fault: TransportFault | None = None
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def room(self) -> Room:
        return self._connection.room

    def header(self, name: str) -> str | None:
        wanted, values = name.encode("ascii"), []
        for found, value in self.headers:
            if len(found) == len(wanted) and found.lower() == wanted:
                values.append(value)
        if len(values) == 1:
            return values[0].decode("latin-1")
        return b", ".join(values).decode("latin-1") if values else None

    def content(self) -> tuple[str, str]:
        """In one pass: it is asked of every answer."""
        kind = coding = b""
        for name, value in self.headers:
            size = len(name)
            if size == 12 and name.lower() == b"content-type":
                kind = value
            elif size == 16 and name.lower() == b"content-encoding":
                coding = coding + b"," + value if coding else value
        return kind.decode("latin-1"), coding.decode("latin-1")

    async def head(self) -> "Http1Response":
        """Itself, when the head of a stream, or the whole of another answer, is here.

        Another, where a kept connection was none any more, and the request went out again. Who is cancelled
        meanwhile gives the answer up.
        """
        try:
            while not (self.complete or (self.started and self.stream)):
                await self._arrival()
                self._check()
            return self
        except ConnectionStale:
            if self.request is None:
                raise
        except BaseException:
            self.abandon()
            raise
        return await self._connection.ask_again(self.request)

    async def read(self) -> bytes:
        if self.complete and self.size <= self.limit:
            return self._taken()
        return await self._collected()

    async def _collected(self) -> bytes:
        if not self.is_error:
            return await collected(self.next_chunk, self.room)
        if not self.complete:
            self.stream = False  # nobody takes it chunk by chunk: it must not be held back
            self.limit = LONGEST_ERROR
            self._connection.go_on()
        while not self.complete:
            await self._arrival()
            self._check()
        return self._taken()

    async def next_chunk(self, sink: Sink | None = None) -> bytes:
        self._sink = sink
        while not self.chunks:
            if self.complete:
                return b""
            await self._arrival()
            self._check()
        return self._taken()

    @property
    def over(self) -> bool:
        return self.complete and not self.chunks

    def allow_silence(self, seconds: float) -> None:
        if not self.complete and self._connection.silence is not None:
            self._connection.silence = seconds

    async def aclose(self) -> None:
        self.abandon()

    def abandon(self) -> None:
        if not self.complete:
            self._connection.abort()

    def forget_headers(self) -> None:
        """They belonged to a 1xx; the answer brings its own."""
        self.headers.clear()

    def bound(self) -> None:
        """More than its limit came, and there will be others. Raises ConnectionBroken for such a head."""
        if not self.started:
            raise ConnectionBroken(f"sent headers of more than {HIGH_WATER:,} bytes")
        if self.is_error:
            self.abandon()
            self.complete = True  # what came says what it says
        elif self.chunks:  # else there is nothing whose taking would let it go on
            self.stream = True  # too large to be collected unasked
            self._connection.hold_back()

    @property
    def is_error(self) -> bool:
        return not 200 <= self.status < 300

    def begin_body(self, status: int) -> None:
        self.status = status
        self.started = True
        self.size = 0
        self.request = None  # it holds the body, and is not sent again any more
        if not 200 <= status < 300:
            self.limit = LONGEST_ERROR
        elif not self.stream:
            self.limit = self._connection.small

    def fail(self, fault: TransportFault) -> None:
        self._fault = fault.with_traceback(None)  # it knows this response: a ring, and all that came in it
        if not self.stream:
            self.chunks.clear()
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        passes = self._sink is not None and self.chunks and not self.complete and self._fault is None
        if not passes or not self._handed_on(waiter):
            waiter.set_result(None)

    def _handed_on(self, waiter: asyncio.Future[None]) -> bool:
        """Whether the sink of who waits has taken what came; he waits on then."""
        assert self._sink is not None
        chunk = self._taken()
        try:
            taken = self._sink(chunk)
        except Exception as error:  # noqa: BLE001 who waits is told
            if isinstance(error, TransportFault):
                error.__traceback__ = None  # it knows who waits, and so would he: a ring
            self._waiter = None
            waiter.set_exception(error)
            return True
        if not taken:
            self.chunks.append(chunk)
            self.size = len(chunk)
        return taken

    def _arrival(self) -> asyncio.Future[None]:
        """Done when more of the answer is here, or nothing will come."""
        if self._fault is not None:
            raise copy(self._fault)
        waiter = self._waiter = self._connection.loop.create_future()
        return waiter

    def _check(self) -> None:
        if self._fault is not None and not self.chunks:
            raise copy(self._fault)  # one that is raised knows who waited, and so would this: a ring

    def _taken(self) -> bytes:
        chunks = self.chunks
        taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks = []
        if self.size > HIGH_WATER and not self.complete:  # else the connection serves another by now
            self._connection.go_on()
        self.size = 0
        return taken

    @property
    def ends_with_connection(self) -> bool:
        """Neither a length nor chunks: the body is all that comes until the connection is closed."""
        if not self.started or self.header("content-length") is not None:
            return False
        return "chunked" not in (self.header("transfer-encoding") or "").lower()


class Http1Connection(asyncio.Protocol):
    """Sends one request at a time. `on_free` is called when the next may be sent, `on_lost` at the end."""

    __slots__ = (
        "_held_back",
        "_on_free",
        "_on_lost",
        "_on_stale",
        "_parser",
        "_response",
        "_transport",
        "active_at",
        "idle_for",
        "kept",
        "loop",
        "lost",
        "place",
        "room",
        "silence",
        "small",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        place: Any,
        on_free: Callable[["Http1Connection"], None],
        on_lost: Callable[["Http1Connection"], None],
        room: Room,
        on_stale: Callable[["Http1Connection", Any], Awaitable[Http1Response]] | None = None,
    ) -> None:
        self.loop = loop
        self.place = place  # whose connection this is; the pool's business
        self.room = room  # for what is collected whole
        self.small = min(room.longest, HIGH_WATER)  # bytes that need none
        self.lost = False
        self.kept = False  # whether it was idle before
        self.idle_for = math.inf  # seconds that the provider lets it be idle
        self.active_at = loop.time()  # when bytes last went in either direction
        self._on_free = on_free
        self._on_lost = on_lost
        self._on_stale = on_stale
        self._held_back = False
        self._response: Http1Response | None = None
        self._parser = httptools.HttpResponseParser(self)

    def request(self, data: bytes, stream: bool, silence: float | None = None) -> Http1Response:
        self.active_at = self.loop.time()
        self.silence = silence
        response = self._response = Http1Response(self, stream)
        self._transport.write(data)
        return response

    def ask_again(self, request: object) -> Awaitable[Http1Response]:
        """On another connection: this one was closed when the request came to it."""
        assert self._on_stale is not None
        return self._on_stale(self, request)

    @property
    def busy(self) -> bool:
        return self._response is not None

    def time_out(self, message: str) -> None:
        """Fail the request under way; the connection is of no more use."""
        self._end(TransportTimeout(message))

    def close(self) -> None:
        """Close at once; a request under way fails."""
        self._end(ConnectionBroken("connection closed"))

    def abort(self) -> None:
        """Close at once; nobody waits for the answer of a request under way."""
        self.lost = True
        self._response = None
        self._transport.abort()

    def hold_back(self) -> None:
        if not self._held_back:
            self._held_back = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self._held_back:
            self._held_back = False
            self.active_at = self.loop.time()
            self._transport.resume_reading()

    @property
    def held_back(self) -> bool:
        return self._held_back

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.active_at = self.loop.time()
        response = self._response
        if response is None:
            return self.abort()  # nobody asked: never let it answer the next request
        response.size += len(data)
        try:
            self._parser.feed_data(data)
            if response.size > response.limit and not response.complete:
                response.bound()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            ours = error.__context__  # where a callback of ours put an end to it
            malformed = ConnectionBroken("answered with malformed HTTP")
            self._end(ours if isinstance(ours, ConnectionBroken) else malformed)
        except ConnectionBroken as fault:
            self._end(fault)
        if response.stream or response.complete:
            response.wake()
        return None

    def eof_received(self) -> bool:
        self.lost = True  # no request may follow
        return False  # close: HTTP has no half-open connections

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._on_lost(self)
        response, self._response = self._response, None
        del self._parser  # it knows this connection too: a ring, which would wait for the garbage collector
        if response is None:
            return
        if error is None and response.ends_with_connection:
            response.complete = True
            response.wake()
        else:
            untouched = not (response.size or response.started)
            at_once = self.kept and untouched and self.loop.time() - self.active_at < STALE_SECONDS
            response.fail((ConnectionStale if at_once else ConnectionBroken)("connection broken"))

    # What httptools calls, in this order.

    def on_message_begin(self) -> None:
        if self._response is None:
            self.abort()  # bytes behind a whole answer: they must not become part of the next one

    def on_header(self, name: bytes, value: bytes) -> None:
        response = self._response
        if response is not None and not response.started:  # what follows a body is no header: RFC 9110, 6.5.1
            response.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is None:
            return
        if status >= 200:
            self._response.begin_body(status)
        else:
            self._response.forget_headers()

    def on_body(self, data: bytes) -> None:
        if self._response is not None:
            self._response.chunks.append(data)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not response.started:
            return  # 1xx: the answer itself comes yet
        response.complete = True
        self._response = None
        if self._parser.should_keep_alive() and not self.lost:
            self.go_on()
            if not self.kept:
                self.idle_for = _idle_seconds(response.header("keep-alive"))
            self._on_free(self)
        else:
            self.abort()

    def _end(self, fault: TransportFault) -> None:
        response, self._response = self._response, None
        self.lost = True
        self._transport.abort()
        if response is not None:
            response.fail(fault)


def _idle_seconds(told: str | None) -> float:
    """A while less than the provider's own, so that it is not closed under a request that is on its way."""
    found = _KEPT_FOR.search(told or "")
    return math.inf if found is None else max(int(found[1]) * 0.75 - 1, int(found[1]) / 2)
