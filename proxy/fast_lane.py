"""The fast lane: data-plane POSTs go from the HTTP parser straight to the engine.

It is a protocol class for uvicorn, which stays the server: it parses, keeps connections alive, drains,
and serves everything else (browsers, admin, REST, docs) through Django as ever.
"""

import asyncio
import logging
import math
import time
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

import httptools
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.asgi import SLOWEST_BODY
from proxy.call import Call, Incoming
from proxy.endpoints import POST_URLS
from proxy.engine import Engine
from proxy.errors import GatewayError, InvalidRequest, Refusal, RequestTimeout, RequestTooLarge
from proxy.gateway import running_gateway
from proxy.ids import uuid7
from proxy.relay import Relay
from proxy.together import Together, step_by_step
from proxy.whole import Whole

logger = logging.getLogger(__name__)

STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
CHUNKED = b"transfer-encoding: chunked\r\n"
LOOK_SECONDS = 1.0  # between two looks for connections whose headers take too long
LINGER_SECONDS = 30.0  # how long a client may go on sending a body that has been refused


class FastLaneProtocol(HttpToolsProtocol):
    """One client connection."""

    _between = True  # no request has begun that has not got to the end of its headers
    _closing = False
    _idle_since = math.inf  # perf_counter, since its last answer
    _looks = False  # whether some connection of this process has the timer of _look running
    running: "Exchange | None" = None  # whose answer is due next; `cycle` is the request that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.begun = time.perf_counter()
        self.most_body_bytes: int = settings.MAX_BODY_BYTES
        self.turns = _turns.get(self.server_state) or Turns(self.loop)
        _turns[self.server_state] = self.turns
        if not FastLaneProtocol._looks:
            FastLaneProtocol._looks = True
            self.loop.call_later(LOOK_SECONDS, _look, self.loop, self.connections)

    def data_received(self, data: bytes) -> None:
        self._idle_since = math.inf
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        except httptools.HttpParserUpgrade:
            self._unsupported_upgrade_warning()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            return super().on_response_complete()
        # The base class sets a timer here, for every answer.
        self.server_state.total_requests += 1
        self._idle_since = time.perf_counter()
        return self.flow.resume_reading()

    def end_if_slow(self, now: float) -> None:
        """Close if the client has sent no whole head within HEADER_SECONDS, and nothing else is to do.

        Or if it was idle after an answer for longer than connections are kept alive.
        """
        if now - self._idle_since > self.timeout_keep_alive:
            self.transport.close()
        elif self._answers:
            if self.running is not None:
                self.running.end_if_stalled(now)
        elif now - self.begun < settings.HEADER_SECONDS or self.flow.read_paused:
            return
        elif not self._between:
            self.end_with(RequestTimeout())
        elif self._idle_since == math.inf:  # before the first request, or after stray line breaks
            self.transport.close()

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Never into another request's answer: that one is sent to its end, then the connection closes."""
        answering: Any = self.cycle
        if answering is None or isinstance(answering, Exchange):
            answering = self.running if self.running and self.running.begun else None
        elif answering.more_body and not answering.response_started:
            answering = None  # Django would wait for the rest
        if answering is None or answering.response_complete:
            return self.end_with(InvalidRequest("This is not valid HTTP.", code="malformed_http"))
        answering.keep_alive = False
        return self.flow.pause_reading()

    def end_with(self, error: GatewayError) -> None:
        """For what never became a request, and so leaves no row."""
        id = uuid7()
        body = error.body(id)
        head = (
            b"content-type: application/json\r\nx-content-type-options: nosniff\r\n"
            b"x-request-id: %b\r\nX-LiteLLM-Proxy: true\r\n" % id.encode()
        )
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(
            b"".join((STATUS_LINES[error.status], _common(self.server_state), head, length, body))
        )
        self.transport.close()

    def on_message_begin(self) -> None:
        self._between = False
        # The base class builds an ASGI scope here; only what goes to Django needs one.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.begun = time.perf_counter()

    def on_headers_complete(self) -> None:
        self._between = True
        self._take_request()
        if self._closing:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """The server drains: a request that has begun to arrive is still served (the base class drops it)."""
        self._closing = True
        if self._between:
            super().shutdown()

    def _take_request(self) -> None:
        headers = dict(self.headers)
        if b"expect" in headers:
            self.expect_100_continue = headers[b"expect"].lower() == b"100-continue"
        endpoint = POST_URLS.get(self.url.partition(b"?")[0])
        if endpoint is None or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            return self._hand_to_django()
        if b"origin" in headers:
            return self._hand_to_django()
        address = self.client[0] if self.client else ""
        return self._begin(Exchange(self, Incoming(endpoint, headers, b"", self.begun, address)))

    def _hand_to_django(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _begin(self, exchange: "Exchange") -> None:
        before: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment] # has what the base class looks at
        if before is None or before.response_complete:
            exchange.take_turn()
        else:
            if self.pipeline:  # not before: who doesn't read doesn't see the client hang up either
                self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def on_body(self, body: bytes) -> None:
        if isinstance(self.cycle, Exchange):
            return self.cycle.take_body(body)
        return super().on_body(body)

    def on_message_complete(self) -> None:
        if isinstance(self.cycle, Exchange):
            return self.cycle.take_end()
        return super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called for a pipelined request when its turn has come, and for every one of Django's."""
        if isinstance(cycle, Exchange):
            return cycle.take_turn()
        return super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        waiting: list[Any] = [self.running, self.cycle, *(cycle for cycle, _ in self.pipeline)]
        for cycle in waiting:
            if isinstance(cycle, Exchange):
                cycle.hang_up()
        # They know this connection too: rings, which would wait for the garbage collector.
        self.cycle = self.running = None  # type: ignore[assignment]
        self.pipeline.clear()


def _look(loop: asyncio.AbstractEventLoop, connections: Any) -> None:
    """One timer for all connections: one for each would cost every request."""
    now = time.perf_counter()
    for connection in list(connections):
        if isinstance(connection, FastLaneProtocol):
            connection.end_if_slow(now)
    FastLaneProtocol._looks = bool(connections)
    if connections:
        loop.call_later(LOOK_SECONDS, _look, loop, connections)


_common_headers: tuple[object, bytes] = (None, b"")


def _common(state: ServerState) -> bytes:
    """The headers of all answers: uvicorn makes a new list of them when their date has changed."""
    global _common_headers
    if _common_headers[0] is not state.default_headers:
        lines = [b"%b: %b\r\n" % header for header in state.default_headers]
        _common_headers = (state.default_headers, b"".join(lines))
    return _common_headers[1]


class _NoEvent:
    """Stands where the base class wakes an ASGI application; an exchange waits for nothing."""

    def set(self) -> None:
        return None


class Exchange:
    """One request and its answer. Most attributes without underscore are what the base class looks at."""

    __slots__ = (
        "_body",
        "_limit",
        "_linger",
        "_my_turn",
        "_old",
        "_protocol",
        "_refused",
        "_size",
        "_size_seen",
        "_size_seen_at",
        "_started",
        "_task",
        "_unbegun",
        "_waits_since",
        "_whole",
        "body",
        "disconnected",
        "incoming",
        "keep_alive",
        "more_body",
        "response_complete",
    )
    message_event = _NoEvent()

    def __init__(self, protocol: FastLaneProtocol, incoming: Incoming) -> None:
        self.response_complete = False
        self.disconnected = False
        self._old = protocol.parser.get_http_version() == "1.0"  # knows no chunks
        self.keep_alive = not self._old and protocol.parser.should_keep_alive()
        self._protocol = protocol
        self.incoming = incoming
        self._limit = protocol.most_body_bytes
        self._body: list[bytes] = []
        self._size = 0
        self._size_seen = -1  # when it was last looked at; before that, never
        self._whole = False
        self._my_turn = False
        self._refused = False
        self._started = False
        self._unbegun: Call | None = None  # until the task has begun with it
        self._linger: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def take_turn(self) -> None:
        """All earlier answers of this connection are sent."""
        self._my_turn = True
        self._protocol.running = self
        announced = self.incoming.headers.get(b"content-length", b"0")
        if int(announced) > self._limit:
            self._refuse_body()
        elif self._whole:
            self._start(follows=True)
        elif self._protocol.expect_100_continue:
            self._protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._body.append(part)
        elif self._my_turn:
            self._refuse_body()

    def take_end(self) -> None:
        self._whole = True
        if self._linger is not None:
            self._linger.cancel()
            self._complete()
        elif self._my_turn:
            self._start()

    @property
    def begun(self) -> bool:
        """Whether an answer is on its way, or has been sent in part."""
        return self._started or self._refused

    def hang_up(self) -> None:
        """The client is gone: nobody waits for the answer any more."""
        self.disconnected = True
        if self._linger is not None:
            self._linger.cancel()
        if self._task is not None and not self._task.done():
            self._task.add_done_callback(self._gone)
            self._task.cancel()

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._protocol.tasks.discard(task)
        if self._unbegun is not None:  # cancelled before its first step: it knows of no end
            running_gateway().engine.give_up(self._unbegun)
            self._unbegun = None

    def _start(self, *, follows: bool = False) -> None:
        """`follows`: right behind an answer on this connection, whose call may still hold its limits."""
        if self._size > self._limit:
            self._refuse_body()
        if self._refused:
            return
        parts, self._body = self._body, []
        self.incoming.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._started = True
        turns = self._protocol.turns
        if follows or self._protocol.tasks or turns.arrived.any_waits:
            turns.arrived.add(self)
        else:  # alone: there is nobody to wait a turn for
            _begin_all([self])

    def go_on(self, engine: Engine, call: Call) -> None:
        """The engine has begun with the call."""
        self._task = task = self._protocol.loop.create_task(self._serve(engine, call))
        self._protocol.tasks.add(task)  # the server waits for these when it drains
        self._unbegun = call

    def _refuse_body(self) -> None:
        """Answer before the body is whole; close once it is, or after LINGER_SECONDS.

        Closing at once would reset the connection under a client that is still sending: it would
        see a broken connection, and most clients would send the whole body again.
        """
        if self._refused:
            return
        self._refuse(RequestTooLarge.over(self._limit))
        if self._whole:
            self._complete()
        else:
            self._linger = self._protocol.loop.call_later(LINGER_SECONDS, self._complete)

    def _refuse(self, error: GatewayError) -> None:
        self._refused = True
        self.keep_alive = False
        refusal = running_gateway().engine.refuse(self.incoming, error)
        self._write(refusal.status, refusal.headers, refusal.body)

    def end_if_stalled(self, now: float) -> None:
        """Close if the body has stopped coming, or comes by the drop. To be called about once a second."""
        if self._whole or self.begun or not self._my_turn:
            return
        if self._size_seen < 0:
            self._waits_since = now
        if self._size > self._size_seen:
            self._size_seen, self._size_seen_at = self._size, now
        patience = settings.BODY_SECONDS
        too_slow = now - self._waits_since >= patience + self._size / SLOWEST_BODY
        if too_slow or now - self._size_seen_at >= patience:
            self._refuse(RequestTimeout("The body did not arrive in time."))
            self._complete()

    async def _serve(self, engine: Engine, call: Call) -> None:
        self._unbegun = None
        try:
            answer = await engine.go_on(call)
            if isinstance(answer, Whole):
                if len(self._protocol.tasks) > 1:
                    self._protocol.turns.answered.add((self, answer))
                else:
                    _respond_all([(self, answer)])
            else:
                await self._relay(answer)
        except Refusal as refusal:
            self.respond(refusal.status, refusal.headers, refusal.body)
        except asyncio.CancelledError:
            if not self.disconnected:
                raise
        finally:
            self._protocol.tasks.discard(self._task)

    async def _relay(self, relay: Relay) -> None:
        try:
            await self._stream(relay)
        finally:
            await relay.aclose()

    async def _stream(self, relay: Relay) -> None:
        write, flow = self._protocol.transport.write, self._protocol.flow
        unsent = self._head(relay.status, relay.headers) + (b"\r\n" if self._old else CHUNKED + b"\r\n")
        unsent += self._framed(relay.first_chunk())
        relay.pass_to(self)
        while True:
            if not relay.ends:  # else the end goes out in the same write
                write(unsent)
                unsent = b""
                if flow.write_paused:
                    await flow.drain()
            chunk = await relay.next_chunk()
            if not chunk:
                break
            unsent += self._framed(chunk)
        write(unsent if self._old else unsent + b"0\r\n\r\n")
        self._complete()

    @property
    def behind(self) -> bool:
        return self._protocol.flow.write_paused

    def send(self, chunk: bytes) -> None:
        self._protocol.transport.write(self._framed(chunk))

    def _framed(self, chunk: bytes) -> bytes:
        return chunk if self._old or not chunk else b"%x\r\n%b\r\n" % (len(chunk), chunk)

    def fail(self) -> None:
        """Nothing came of the request, not even a row."""
        self._protocol.end_with(GatewayError())

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        if not self.disconnected:
            self._write(status, headers, body)
            self._complete()

    def _write(self, status: int, headers: bytes, body: bytes) -> None:
        length = b"content-length: %d\r\n\r\n" % len(body)
        self._protocol.transport.write(b"".join((self._head(status, headers), length, body)))

    def _head(self, status: int, headers: bytes) -> bytes:
        """Status line and headers, without the blank line at the end."""
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b" % (line, _common(self._protocol.server_state), headers, closing)

    def _complete(self) -> None:
        self.response_complete = True
        if not self.keep_alive:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


class Turns:
    """Of one server: what arrived in a turn of its event loop, and what was answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived = Together(_begin_all, loop)
        self.answered = Together(_respond_all, loop)


_turns: WeakKeyDictionary[ServerState, Turns] = WeakKeyDictionary()


def _begin_all(exchanges: list[Exchange]) -> None:
    exchanges = [exchange for exchange in exchanges if not exchange.disconnected]
    try:
        engine = running_gateway().engine
        calls = engine.begin([exchange.incoming for exchange in exchanges])
    except Exception:
        logger.exception("%d requests could not be begun", len(exchanges))
        for exchange in exchanges:
            exchange.fail()
        return
    for exchange, call in zip(exchanges, calls, strict=True):
        exchange.go_on(engine, call)


def _respond_all(answered: list[tuple[Exchange, Whole]]) -> None:
    running_gateway().engine.finish([answer for _, answer in answered])
    step_by_step((_respond,), answered, _not_sent)
    for exchange, answer in answered:
        answer.close(hung_up=exchange.disconnected)


def _respond(answered: tuple[Exchange, Whole]) -> None:
    exchange, answer = answered
    exchange.respond(answer.status, answer.headers, answer.body)


def _not_sent(answered: tuple[Exchange, Whole], error: Exception) -> None:
    logger.error("the answer to call %s could not be sent", answered[1].call.id, exc_info=error)
