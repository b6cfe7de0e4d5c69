"""One request of the fast lane and its answer: between the connection and the engine."""

import asyncio
import logging
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from django.conf import settings
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.server import ServerState

from proxy.answers.relay import Relay
from proxy.answers.whole import Whole
from proxy.batching import Together, step_by_step
from proxy.bodies.budget import Intake
from proxy.calls.call import Call, Incoming
from proxy.doors.wire import CHUNKED, STATUS_LINES, common
from proxy.engine import Engine
from proxy.errors import (
    BodiesInFlight,
    GatewayError,
    Refusal,
    RequestTimeout,
    RequestTooLarge,
    forget_history,
)
from proxy.gateway import running_gateway

logger = logging.getLogger(__name__)

LINGER_SECONDS = 30.0  # how long a client may go on sending a body that has been refused
SMALL = 4096  # bytes; smaller parts of a body are put together: an object for each would cost more
UNCOUNTED = 65536  # bytes; a body that comes whole and is no larger isn't counted


class _NoEvent:
    """Stands where the base class wakes an ASGI application; an exchange waits for nothing."""

    def set(self) -> None:
        return None


class Connection(Protocol):
    """Of a client, as an exchange uses it."""

    running: "Exchange | None"  # whose answer is due next
    turns: "Turns"
    most_body_bytes: int
    expect_100_continue: bool
    parser: Any  # of httptools
    loop: asyncio.AbstractEventLoop
    tasks: set[asyncio.Task[None]]
    server_state: ServerState
    transport: asyncio.Transport
    flow: FlowControl

    def end_with(self, error: GatewayError) -> None: ...

    def on_response_complete(self) -> None: ...


class Exchange:
    """One request and its answer. Most attributes without underscore are what the base class looks at."""

    __slots__ = (
        "_body",
        "_connection",
        "_fault",
        "_intake",
        "_limit",
        "_linger",
        "_my_turn",
        "_old",
        "_refused",
        "_started",
        "_task",
        "_unbegun",
        "_whole",
        "body",
        "disconnected",
        "incoming",
        "keep_alive",
        "more_body",
        "response_complete",
        "size",
    )
    message_event = _NoEvent()

    def __init__(self, connection: Connection, incoming: Incoming) -> None:
        self.response_complete = False
        self.disconnected = False
        self._old = connection.parser.get_http_version() == "1.0"  # knows no chunks
        self.keep_alive = not self._old and connection.parser.should_keep_alive()
        self._connection = connection
        self.incoming = incoming
        self._limit = connection.most_body_bytes
        self._body: list[bytes | bytearray] = []
        self._fault: GatewayError | None = None  # why its body is not wanted
        self._intake: Intake | None = None  # of a body that doesn't come with its head, or is large
        self.size = 0
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
        self._connection.running = self
        announced = self.incoming.headers.get(b"content-length", b"0")
        if int(announced) > self._limit:
            self._refuse_body(RequestTooLarge.over(self._limit))
        elif self._fault is not None:
            self._refuse_body(self._fault)
        elif self._whole:
            self._start(follows=True)
        elif self._intake is not None:
            self._intake.restart()
        elif self._connection.expect_100_continue:
            self._tell_to_go_on()

    def _tell_to_go_on(self) -> None:
        """Only who may send a body is asked for it."""
        self.look_at_body()
        if self._fault is None:
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_body(self, part: bytes) -> None:
        self.size += len(part)
        if self._fault is not None:
            return
        if self.size > self._limit:
            self._refuse_body(RequestTooLarge.over(self._limit))
        elif not self._body or len(part) >= SMALL:
            self._body.append(part)
        elif isinstance(last := self._body[-1], bytearray):
            last += part
        else:
            self._body.append(bytearray(part))

    def look_at_body(self) -> None:
        """Before more of it is kept: whose is it, and is there room for it?"""
        if self._fault is not None:
            return
        try:
            if self._intake is None:
                self._intake = self._take_in()
            self._intake.grow_to(self.size)
        except GatewayError as error:
            self._refuse_body(error)

    def _take_in(self) -> Intake:
        """Raises InvalidApiKey, RateLimited."""
        gateway, incoming = running_gateway(), self.incoming
        key, _ = gateway.engine.identify(incoming.headers, incoming.client, gateway.keeper.table)
        return Intake(gateway.bodies, f"key {key.id}", settings.BODY_SECONDS, self._make_room)

    def _make_room(self) -> None:
        self._refuse_body(BodiesInFlight(retry_after=1))

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

    @property
    def lingers(self) -> bool:
        """Whether it was refused, and the rest of its body is read and dropped."""
        return self._linger is not None

    def hang_up(self) -> None:
        """The client is gone: nobody waits for the answer any more."""
        self.disconnected = True
        self._let_body_go()
        if self._linger is not None:
            self._linger.cancel()
        if self._task is not None and not self._task.done():
            self._task.add_done_callback(self._gone)
            self._task.cancel()

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._connection.tasks.discard(task)
        if self._unbegun is not None:  # cancelled before its first step: it knows of no end
            running_gateway().engine.give_up(self._unbegun)
            self._unbegun = None

    def _start(self, *, follows: bool = False) -> None:
        """`follows`: right behind an answer on this connection, whose call may still hold its limits."""
        if self.size > UNCOUNTED or self._intake is not None:
            self.look_at_body()
            if self._intake is not None:
                self._intake.end()
        if self._refused:
            return
        parts, self._body = self._body, []
        self.incoming.body = b"".join(parts)  # of one part: itself
        self._started = True
        turns = self._connection.turns
        if follows or self._connection.tasks or turns.arrived.any_waits:
            turns.arrived.add(self)
        else:  # alone: there is nobody to wait a turn for
            _begin_all([self])

    def go_on(self, engine: Engine, call: Call) -> None:
        """The engine has begun with the call."""
        self._task = task = self._connection.loop.create_task(self._serve(engine, call))
        self._connection.tasks.add(task)  # the server waits for these when it drains
        self._unbegun = call

    def _refuse_body(self, error: GatewayError) -> None:
        """Answer before the body is whole; close once it is, or after LINGER_SECONDS.

        Closing at once would reset the connection under a client that is still sending: it would
        see a broken connection, and most clients would send the whole body again.
        """
        forget_history(error)  # it knows this exchange, which knows it
        self._fault = error
        self._body.clear()
        self._let_body_go()
        if not self._my_turn or self._refused:
            return
        self._refuse(error)
        if self._whole:
            self._complete()
        else:
            self._linger = self._connection.loop.call_later(LINGER_SECONDS, self._complete)

    def _refuse(self, error: GatewayError) -> None:
        self._refused = True
        self.keep_alive = False
        refusal = running_gateway().engine.refuse(self.incoming, error)
        self._write(refusal.status, refusal.headers, refusal.body)

    def _let_body_go(self) -> None:
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.release()

    def end_if_stalled(self, now: float) -> None:
        """Close if the body has stopped coming, or comes by the drop. To be called about once a second."""
        if self._whole or self.begun or not self._my_turn:
            return
        self.look_at_body()
        if self._intake is not None and now >= self._intake.deadline:
            self._refuse(RequestTimeout("The body did not arrive in time."))
            self._complete()

    async def _serve(self, engine: Engine, call: Call) -> None:
        self._unbegun = None
        try:
            answer = await engine.go_on(call)
            if isinstance(answer, Whole):
                if len(self._connection.tasks) > 1:
                    self._connection.turns.answered.add((self, answer))
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
            self._connection.tasks.discard(self._task)

    async def _relay(self, relay: Relay) -> None:
        try:
            await self._stream(relay)
        finally:
            await relay.aclose()

    async def _stream(self, relay: Relay) -> None:
        write, flow = self._connection.transport.write, self._connection.flow
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
        return self._connection.flow.write_paused

    def send(self, chunk: bytes) -> None:
        self._connection.transport.write(self._framed(chunk))

    def _framed(self, chunk: bytes) -> bytes:
        return chunk if self._old or not chunk else b"%x\r\n%b\r\n" % (len(chunk), chunk)

    def fail(self) -> None:
        """Nothing came of the request, not even a row."""
        self._connection.end_with(GatewayError())

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        if not self.disconnected:
            self._write(status, headers, body)
            self._complete()

    def _write(self, status: int, headers: bytes, body: bytes) -> None:
        length = b"content-length: %d\r\n\r\n" % len(body)
        self._connection.transport.write(b"".join((self._head(status, headers), length, body)))

    def _head(self, status: int, headers: bytes) -> bytes:
        """Status line and headers, without the blank line at the end."""
        line = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
        closing = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b" % (line, common(self._connection.server_state), headers, closing)

    def _complete(self) -> None:
        self.response_complete = True
        if self._intake is not None:
            self._let_body_go()
        if not self.keep_alive:
            self._connection.transport.close()
        self._connection.on_response_complete()


class Turns:
    """Of one server: what arrived in a turn of its event loop, and what was answered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.arrived = Together(_begin_all, loop)
        self.answered = Together(_respond_all, loop)


_turns: WeakKeyDictionary[ServerState, Turns] = WeakKeyDictionary()


def turns_of(state: ServerState, loop: asyncio.AbstractEventLoop) -> Turns:
    found = _turns.get(state)
    if found is None:
        found = _turns[state] = Turns(loop)
    return found


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
