"""The fast lane: data-plane POSTs go from the HTTP parser straight to the engine.

It is a protocol class for uvicorn, which stays the server: it parses, keeps connections alive, drains,
and serves everything else (browsers, admin, REST, docs) through Django as ever.
"""

import asyncio
import math
import time
from typing import Any

import httptools
from django.conf import settings
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy.calls.call import Incoming
from proxy.doors import heads, wire
from proxy.doors.connections import Connections
from proxy.doors.exchange import LINGER_SECONDS, Exchange, turns_of
from proxy.endpoints import POST_URLS
from proxy.errors import (
    GatewayError,
    HeadTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RequestTimeout,
    UpgradeRefused,
)

MOST_PIPELINED = 100  # requests that wait for the answers to earlier ones


class FastLaneProtocol(HttpToolsProtocol):
    """One client connection."""

    _between = True  # no request has begun that has not got to the end of its headers
    _arriving = False  # a body, and what may come behind it
    _closing = False
    _refused = False  # what comes from now on is dropped
    _plain_head = b""  # of a request that offers to go on in another protocol: its head without that
    _head_bytes = 0  # of a head that comes in several parts: what of it has arrived, at least
    _head_began = False  # in the part that is being read
    _measure = False  # whether a head may be too large, and must be looked at when it is whole
    _quiet = True  # no bytes of a body have come in the part that is being read
    _quiet_bytes = 0  # of trailers or a chunk's extensions: what came since the last bytes of a body
    _held = False  # an answer is over, but its client must read before the next one
    _idle_since = math.inf  # perf_counter, since its last answer
    _lingers_until = math.inf  # perf_counter, while the rest of what was refused is read
    _unsent = 0  # bytes for the client
    running: Exchange | None = None  # whose answer is due next; `cycle` is the request that came last

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.begun = self._taken_at = time.perf_counter()
        self.most_body_bytes: int = settings.MAX_BODY_BYTES
        self._piece: int = settings.HEAD_BYTES // heads.URL_SHARE
        self._most_lines: int = settings.HEAD_LINES
        self.turns = turns_of(self.server_state, self.loop)
        Connections.of(self.server_state, self.loop).welcome(self)

    def data_received(self, data: bytes) -> None:
        self._idle_since = math.inf
        if self._refused:
            return
        if len(data) > self._piece:
            if not self._arriving:
                self._take_in_pieces(memoryview(data))
                return
            self._measure = True
        self._quiet = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._take_without_offer(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_head(_fault_of(error))
        else:
            if not self._between:
                self._head_grew(len(data))
            elif self._arriving:
                self._body_grew(len(data))

    def _take_in_pieces(self, data: memoryview) -> None:
        """A head must not be collected before it is found to be too large."""
        while data:
            size = len(data) if self._arriving else self._piece
            self.data_received(data[:size])  # type: ignore[arg-type]
            data = data[size:]

    def _head_grew(self, size: int) -> None:
        if self._head_began:
            self._head_began = False  # some of it may have been of the request before
        else:
            self._head_bytes += size
        self._measure = True
        if error := heads.too_large(self.url, self.headers, self._head_bytes):
            self._refuse_head(error)

    def _body_grew(self, size: int) -> None:
        self._quiet_bytes = self._quiet_bytes + size if self._quiet else 0
        if self._quiet_bytes > settings.HEAD_BYTES:  # the parser collects trailers like headers
            self._refuse_head(HeadTooLarge("What stands around the body is too large."))
        elif isinstance(self.cycle, Exchange):
            self.cycle.look_at_body()

    def on_message_begin(self) -> None:
        self._between = False
        # The base class builds an ASGI scope here; only what goes to Django needs one.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.begun = time.perf_counter()
        self._head_bytes = self._quiet_bytes = 0
        self._head_began = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._between:  # else it is a trailer, and never a header
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._between = True
        if self._measure or len(self.headers) > self._most_lines:
            self._measure = False
            if error := heads.too_large(self.url, self.headers, self._head_bytes):
                raise error
        self._take_request()
        if self._closing and self.cycle is not None:
            self.cycle.keep_alive = False

    def _take_request(self) -> None:
        """Raises GatewayError for what is no request."""
        headers = dict(self.headers)
        if len(headers) != len(self.headers):
            headers = heads.joined(self.headers)
        if b"host" not in headers and self.parser.get_http_version() != "1.0":
            raise InvalidRequest("There is no Host header.", param="host", code="missing_host")
        if self.parser.should_upgrade():
            return self._leave_offer(headers)
        self._arriving = True
        if b"expect" in headers and self.parser.get_http_version() != "1.0":
            self.expect_100_continue = headers[b"expect"].lower() == b"100-continue"
        endpoint = POST_URLS.get(self.url.partition(b"?")[0])
        if endpoint is None or self.parser.get_method() != b"POST" or b"origin" in headers:
            return self._hand_to_django()
        address = self.client[0] if self.client else ""
        return self._begin(Exchange(self, Incoming(endpoint, headers, b"", self.begun, address)))

    def _leave_offer(self, headers: dict[bytes, bytes]) -> None:
        """The parser ends at an offer to go on in another protocol; the request is taken again without it."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise MethodNotAllowed("CONNECT is not allowed: this is no proxy.")
        if method == b"GET" and b"websocket" in headers[b"upgrade"].lower():
            raise UpgradeRefused
        version = self.parser.get_http_version()
        self._plain_head = heads.without_offer(method, self.url, version, self.headers)

    def _take_without_offer(self, rest: bytes) -> None:
        head, self._plain_head = self._plain_head, b""
        self.data_received(head)
        if rest:
            self.data_received(rest)

    def _hand_to_django(self) -> None:
        self._check_pipeline()
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expects
        self.scope["headers"] = headers
        super().on_headers_complete()

    def _begin(self, exchange: Exchange) -> None:
        before: Any = self.cycle
        if before is None or before.response_complete:
            self.cycle = exchange  # type: ignore[assignment] # has what the base class looks at
            return exchange.take_turn()
        self._check_pipeline()
        self.cycle = exchange  # type: ignore[assignment]
        if self.pipeline:  # not before: who doesn't read doesn't see the client hang up either
            self.flow.pause_reading()
        return self.pipeline.appendleft((self.cycle, self.app))

    def _check_pipeline(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            raise InvalidRequest(f"More than {MOST_PIPELINED} requests at once.", code="malformed_http")

    def on_body(self, body: bytes) -> None:
        self._quiet = False
        if isinstance(self.cycle, Exchange):
            return self.cycle.take_body(body)
        return super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain_head:
            return None
        self._arriving = False
        self._lingers_until = math.inf
        if isinstance(self.cycle, Exchange):
            return self.cycle.take_end()
        return super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Called for a pipelined request when its turn has come, and for every one of Django's."""
        if isinstance(cycle, Exchange):
            return cycle.take_turn()
        if cycle.scope["http_version"] == "1.0":
            app = wire.without_chunks(app, cycle)
        return super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        if self.pipeline or self.flow.write_paused or self.transport.is_closing():
            return self._go_on()
        # The base class sets a timer here, for every answer.
        self.server_state.total_requests += 1
        self._idle_since = time.perf_counter()
        if self._arriving:  # Django has answered before the body was whole
            self._lingers_until = self._idle_since + LINGER_SECONDS
        return self.flow.resume_reading()

    def _go_on(self) -> None:
        """To the next request, once the client has read the answers before: else they would pile up."""
        self._held = self.flow.write_paused and not self.transport.is_closing()
        return self.flow.pause_reading() if self._held else super().on_response_complete()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self._held = False
            self.on_response_complete()

    def end_if_slow(self, now: float) -> None:
        """Close if the client has sent no whole head within HEADER_SECONDS, and nothing else is to do.

        Or if it was idle after an answer for longer than connections are kept alive, or doesn't read.
        """
        if self._is_stuck(now):
            wire.reset(self.transport)
        elif now > self._lingers_until:
            self.transport.abort()
        elif self._refused:
            return
        elif now - self._idle_since > self.timeout_keep_alive:
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

    def _is_stuck(self, now: float) -> bool:
        """Whether the client has taken nothing of what waits for it for CLIENT_STALL_SECONDS."""
        if unsent := self.transport.get_write_buffer_size():
            unsent += wire.unacknowledged(self.transport)
        # While there is room for more it is not the client that an answer waits for.
        has_room = self._answers and not self.flow.write_paused
        if not unsent or unsent < self._unsent or has_room:
            self._taken_at = now
        self._unsent = unsent
        return now - self._taken_at >= settings.CLIENT_STALL_SECONDS

    @property
    def spare_since(self) -> float | None:
        """Since when nobody would miss it: idle, before the end of its head, or refused. Else None."""
        if self._answers and not (self.running is not None and self.running.lingers):
            return None
        return self.begun if self._idle_since == math.inf else self._idle_since

    def _refuse_head(self, error: GatewayError) -> None:
        """Never into another request's answer: that one is sent to its end, then the connection closes."""
        self._refused = True
        answering: Any = self.cycle
        if answering is None or isinstance(answering, Exchange):
            answering = self.running if self.running and self.running.begun else None
        elif answering.more_body and not answering.response_started:
            answering = None  # Django would wait for the rest
        if answering is None or answering.response_complete:
            return self.end_with(error, lingers=True)
        answering.keep_alive = False
        return self.flow.pause_reading()

    def end_with(self, error: GatewayError, *, lingers: bool = False) -> None:
        """For what never became a request, and so leaves no row.

        `lingers`: more may be on its way. It would reset a closed connection, and the answer with it.
        """
        self._refused = True
        self._hang_up()
        self.transport.write(wire.refusal(error, self.server_state))
        if not lingers:
            return self.transport.close()
        self._lingers_until = time.perf_counter() + LINGER_SECONDS
        return self.transport.write_eof()

    def shutdown(self) -> None:
        """The server drains: a request that has begun to arrive is still served (the base class drops it)."""
        self._closing = True
        if self._between:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._hang_up()

    def _hang_up(self) -> None:
        """Nobody waits for an answer any more."""
        waiting: list[Any] = [self.running, self.cycle, *(cycle for cycle, _ in self.pipeline)]
        for cycle in waiting:
            if isinstance(cycle, Exchange):
                cycle.hang_up()
            elif cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        # They know this connection too: rings, which would wait for the garbage collector.
        self.cycle = self.running = None  # type: ignore[assignment]
        self.pipeline.clear()


def _fault_of(error: httptools.HttpParserError) -> GatewayError:
    """What a callback of the parser raised, else that it can't read this."""
    if isinstance(error.__context__, GatewayError):
        return error.__context__
    return InvalidRequest("This is not valid HTTP.", code="malformed_http")
