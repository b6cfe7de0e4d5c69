"""The fast transport: HTTP/1.1 on the event loop itself, no thread and no scan per call.

Figures beside the libraries it stands in for: docs/decisions.md.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Awaitable
from functools import lru_cache
from urllib.parse import urlsplit

import certifi

from proxy.transports.base import (
    NOT_ALLOWED,
    ConnectFailed,
    RequestHead,
    TransportFault,
    TransportTimeout,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.transports.connecting import connected
from proxy.transports.http1 import Http1Connection, Http1Response
from proxy.transports.room import Room
from routing.addresses import AddressRefused, for_providers
from routing.table import Connection

logger = logging.getLogger(__name__)

MOST_TICKS_A_SECOND = 20
LONGEST_PAUSE = 1.0  # seconds between two looks at all connections
WARM_AT_ONCE = 16  # connections opened side by side before anyone needs them


class Wire:
    """A request head as bytes, and the place that it goes to."""

    __slots__ = ("head", "place")

    def __init__(self, head: RequestHead) -> None:
        parts = urlsplit(head.url)
        self.place = place_of(head.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {value}" for name, value in head.headers]
        if any("\r" in line or "\n" in line for line in lines):
            raise ConnectFailed("a header for the provider has a line break in it")
        self.head = ("\r\n".join(lines) + "\r\ncontent-length: ").encode("latin-1", "replace")


Place = tuple[str, int, bool]


def place_of(url: str) -> Place:
    """Host, port, and whether over TLS. Raises ConnectFailed."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    try:
        port = parts.port or (443 if secure else 80)
    except ValueError:
        raise ConnectFailed("connection failed: the URL has no valid port") from None
    if not parts.hostname:
        raise ConnectFailed("connection failed: the URL has no host")
    return parts.hostname, port, secure


class FastTransport:
    def __init__(self, connection: Connection) -> None:
        self._settings = connection
        self.room = Room(connection.longest_answer)
        self._rules = for_providers()
        self._idle: dict[Place, list[Http1Connection]] = {}
        self._all: set[Http1Connection] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False
        self.opened_total = 0

    @property
    def idle(self) -> int:
        return sum(not connection.lost for idle in self._idle.values() for connection in idle)

    def can_begin(self, head: RequestHead) -> bool:
        wire = head.wire
        if not isinstance(wire, Wire):
            return False  # send() makes it, and says what is wrong with it
        return bool(self._idle_at(wire.place))

    def begin(self, request: UpstreamRequest) -> Http1Response:
        wire = request.head.wire
        assert isinstance(wire, Wire)
        return self._send_on(self._idle_at(wire.place).pop(), wire, request)

    def send(self, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        wire = request.head.wire
        if not isinstance(wire, Wire):
            wire = request.head.wire = Wire(request.head)
        if idle := self._idle_at(wire.place):
            return self._send_on(idle.pop(), wire, request).head()
        return self._send_on_new(wire, request)

    def _send_on(self, connection: Http1Connection, wire: Wire, request: UpstreamRequest) -> Http1Response:
        body = request.body
        data = b"%b%d\r\n\r\n%b" % (wire.head, len(body), body)
        response = connection.request(data, request.stream, request.silence)
        if connection.kept:
            response.request = request
        return response

    def _send_again(self, stale: Http1Connection, request: UpstreamRequest) -> Awaitable[Http1Response]:
        """Once, on a new connection: it is the pool's business that a kept one was none any more."""
        wire = request.head.wire
        assert isinstance(wire, Wire)
        for connection in self._idle.get(wire.place, []):
            if connection.active_at < stale.active_at:
                connection.abort()  # whoever has forgotten that one has forgotten the older ones
        return self._send_on_new(wire, request)

    async def _send_on_new(self, wire: Wire, request: UpstreamRequest) -> Http1Response:
        return await self._send_on(await self._connect(wire.place), wire, request).head()

    async def aclose(self) -> None:
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self._all):
            connection.close()

    async def warm(self, url: str, wanted: int) -> None:
        """Never above max_connections; without keep_alive there is nothing to keep."""
        if not self._settings.keep_alive:
            return
        try:
            place = place_of(url)
            missing = self._missing(place, wanted)
            # Counted once: a server that closes what it accepts must not be called in a loop.
            for begin in range(0, missing, WARM_AT_ONCE):
                opening = [self._open_idle(place) for _ in range(min(missing - begin, WARM_AT_ONCE))]
                opened = await asyncio.gather(*opening, return_exceptions=True)
                for fault in [found for found in opened if isinstance(found, BaseException)]:
                    raise fault
        except TransportFault as fault:
            logger.debug("not warmed: %s", fault)

    async def _open_idle(self, place: Place) -> None:
        self._freed(await self._connect(place))

    def _missing(self, place: Place, wanted: int) -> int:
        idle = len(_living(self._idle.get(place, [])))
        room = self._settings.max_connections - len(self._all)
        return 0 if self._closed else max(min(wanted - idle, room), 0)

    def _idle_at(self, place: Place) -> list[Http1Connection]:
        """The last one lives and was used last: it goes first, so that the others may grow old and go."""
        idle = self._idle.get(place, [])
        while idle and idle[-1].lost:
            idle.pop()
        return idle

    async def _connect(self, place: Place) -> Http1Connection:
        host, _, secure = place
        loop = asyncio.get_running_loop()
        try:
            context = tls_context() if secure else None
            async with asyncio.timeout(self._settings.connect_timeout):
                connection = await self._open(loop, place, context)
        except TimeoutError:
            raise TransportTimeout("timed out while connecting") from None
        except AddressRefused as why:
            logger.debug("%s: %s", host, why)
            raise ConnectFailed(NOT_ALLOWED) from why
        except ssl.SSLError as error:
            raise ConnectFailed(f"TLS failed: {error.reason or 'handshake'}") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFailed("connection failed") from error
        self._all.add(connection)
        self.opened_total += 1
        if self._ticker is None:
            self._tick_later(loop)  # a tick now would find it idle, before its first request
        return connection

    async def _open(
        self, loop: asyncio.AbstractEventLoop, place: Place, context: ssl.SSLContext | None
    ) -> Http1Connection:
        host, port, secure = place
        lost, room = self._all.discard, self.room

        async def connect(address: str) -> Http1Connection:
            _, connection = await loop.create_connection(
                lambda: Http1Connection(loop, place, self._freed, lost, room, self._send_again),
                address,
                port,
                ssl=context,
                server_hostname=host if secure else None,
            )
            return connection

        return await connected(host, port, self._rules, connect, OSError)

    def _freed(self, connection: Http1Connection) -> None:
        if self._settings.keep_alive and not self._closed:
            connection.kept = True
            self._idle.setdefault(connection.place, []).append(connection)
        else:
            connection.abort()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all connections now and then: a timer per call would cost more."""
        now, pause = loop.time(), self._pause()
        for connection in list(self._all):
            quiet = now - connection.active_at
            if not connection.busy:
                # At the next look it might be too late: who closes it first must not be the provider.
                if quiet + pause > min(self._settings.keep_alive, connection.idle_for):
                    connection.abort()
            elif connection.silence is not None and quiet > connection.silence and not connection.held_back:
                connection.time_out(f"sent nothing at all for {connection.silence:g} s")
        self._idle = {place: kept for place, idle in self._idle.items() if (kept := _living(idle))}
        self._ticker = None
        if self._all:
            self._tick_later(loop)

    def _pause(self) -> float:
        shortest = min(self._settings.read_timeout or 60.0, self._settings.keep_alive or 1.0)
        return max(min(shortest / 10, LONGEST_PAUSE), 1 / MOST_TICKS_A_SECOND)

    def _tick_later(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticker = loop.call_later(self._pause(), self._tick, loop)


def _living(idle: list[Http1Connection]) -> list[Http1Connection]:
    return [connection for connection in idle if not connection.lost]


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """SSL_CERT_FILE where it is set, else the certificates that httpx uses too."""
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
