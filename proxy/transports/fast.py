"""The fast transport: HTTP/1.1 on the event loop itself, no thread and no scan per call.

Figures beside the libraries it stands in for: docs/decisions.md.
"""

import asyncio
import os
import ssl
from functools import lru_cache
from urllib.parse import urlsplit

import certifi

from proxy.transports.base import (
    ConnectFailed,
    RequestHead,
    TransportTimeout,
    UpstreamRequest,
    UpstreamResponse,
)
from proxy.transports.http1 import Http1Connection
from routing.table import Connection

MOST_TICKS_A_SECOND = 20


class Wire:
    """A request head as bytes, and the place that it goes to."""

    __slots__ = ("head", "place")

    def __init__(self, head: RequestHead) -> None:
        parts = urlsplit(head.url)
        secure = parts.scheme == "https"
        if not parts.hostname:
            raise ConnectFailed("connection failed: the URL has no host")
        self.place = (parts.hostname, parts.port or (443 if secure else 80), secure)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [f"POST {target} HTTP/1.1", f"host: {parts.netloc.rpartition('@')[2]}"]
        lines += [f"{name}: {value}" for name, value in head.headers]
        if any("\r" in line or "\n" in line for line in lines):
            raise ConnectFailed("a header for the provider has a line break in it")
        self.head = ("\r\n".join(lines) + "\r\ncontent-length: ").encode("latin-1", "replace")


Place = tuple[str, int, bool]


class FastTransport:
    def __init__(self, connection: Connection) -> None:
        self._settings = connection
        self._idle: dict[Place, list[Http1Connection]] = {}
        self._all: set[Http1Connection] = set()
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        wire = request.head.wire
        if not isinstance(wire, Wire):
            wire = request.head.wire = Wire(request.head)
        connection = self._from_pool(wire.place) or await self._connect(wire.place)
        body = request.body
        response = connection.request(b"%b%d\r\n\r\n%b" % (wire.head, len(body), body), request.stream)
        try:
            await response.head()
        except BaseException:
            response.abandon()
            raise
        return response

    async def aclose(self) -> None:
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in list(self._all):
            connection.abort()

    def _from_pool(self, place: Place) -> Http1Connection | None:
        """The connection that was used last: the others may grow old and go."""
        idle = self._idle.get(place)
        while idle:
            connection = idle.pop()
            if not connection.lost:
                return connection
        return None

    async def _connect(self, place: Place) -> Http1Connection:
        host, port, secure = place
        loop = asyncio.get_running_loop()
        context = tls_context() if secure else None
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: Http1Connection(loop, place, self._freed, self._all.discard),
                    host,
                    port,
                    ssl=context,
                )
        except TimeoutError:
            raise TransportTimeout("timed out while connecting") from None
        except ssl.SSLError as error:
            raise ConnectFailed(f"TLS failed: {error.reason or 'handshake'}") from error
        except (OSError, UnicodeError) as error:
            raise ConnectFailed("connection failed") from error
        self._all.add(connection)
        if self._ticker is None:
            self._tick(loop)
        return connection

    def _freed(self, connection: Http1Connection) -> None:
        if self._settings.keep_alive and not self._closed:
            self._idle.setdefault(connection.place, []).append(connection)
        else:
            connection.abort()

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all connections now and then: a timer per call would cost more."""
        now = loop.time()
        for connection in list(self._all):
            quiet = now - connection.active_at
            if not connection.busy:
                if quiet > self._settings.keep_alive:
                    connection.abort()
            elif quiet > self._settings.read_timeout and not connection.held_back:
                connection.time_out("timed out")
        self._idle = {place: kept for place, idle in self._idle.items() if (kept := _living(idle))}
        shortest = min(self._settings.read_timeout, self._settings.keep_alive or 1.0)
        pause = max(min(shortest / 10, 1.0), 1 / MOST_TICKS_A_SECOND)
        self._ticker = loop.call_later(pause, self._tick, loop) if self._all else None


def _living(idle: list[Http1Connection]) -> list[Http1Connection]:
    return [connection for connection in idle if not connection.lost]


@lru_cache(maxsize=1)
def tls_context() -> ssl.SSLContext:
    """SSL_CERT_FILE where it is set, else the certificates that httpx uses too."""
    context = ssl.create_default_context(cafile=os.environ.get("SSL_CERT_FILE") or certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
