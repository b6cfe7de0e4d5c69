"""The reference transport: corporate proxies, custom CAs (SSL_CERT_FILE), HTTP/2."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import httpx

from proxy.transports.base import (
    NOT_ALLOWED,
    ConnectFailed,
    ConnectionBroken,
    RequestHead,
    SentRequest,
    Sink,
    TransportFault,
    TransportTimeout,
    UpstreamRequest,
)
from proxy.transports.collecting import beginning, collected
from proxy.transports.connecting import checked, refusal
from proxy.transports.room import Room
from routing.addresses import for_providers
from routing.table import Connection

FAULTS: tuple[tuple[type[Exception], type[TransportFault], str], ...] = (
    (httpx.TimeoutException, TransportTimeout, "timed out"),
    (httpx.ConnectError, ConnectFailed, "connection failed"),
    (httpx.UnsupportedProtocol, ConnectFailed, "connection failed"),
    (httpx.InvalidURL, ConnectFailed, "connection failed: no valid URL"),
    (ExceptionGroup, ConnectFailed, "connection failed"),  # all addresses failed, a port above 65,535
    (httpx.LocalProtocolError, ConnectFailed, "what was to be sent is no HTTP"),
    (httpx.HTTPError, ConnectionBroken, "connection broken"),
    (httpx.StreamError, ConnectionBroken, "connection broken"),
)
"""Narrow first. Messages are our own: httpx's may hold a URL."""


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if refusal(error) is not None:
            raise ConnectFailed(NOT_ALLOWED) from error
        for foreign, ours, text in FAULTS:
            if isinstance(error, foreign):
                raise ours(text) from error
        raise


class HttpxResponse:
    over = False  # httpx doesn't tell before it is asked for the next chunk

    def __init__(self, response: httpx.Response, room: Room) -> None:
        self._response = response
        self.room = room
        self._chunks: AsyncIterator[bytes] = response.aiter_raw()
        self._reading: asyncio.Task[bytes] | None = None

    @property
    def status(self) -> int:
        return self._response.status_code

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    def content(self) -> tuple[str, str]:
        return self.header("content-type") or "", self.header("content-encoding") or ""

    async def read(self) -> bytes:
        if self._response.is_success:
            return await collected(self.next_chunk, self.room)
        return await beginning(self)

    async def next_chunk(self, sink: Sink | None = None) -> bytes:
        while True:
            # In a task of its own: a cancelled read would end httpx's stream for good.
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._next())
            chunk = await asyncio.shield(self._reading)
            self._reading = None
            if not chunk or sink is None or not sink(chunk):
                return chunk

    async def _next(self) -> bytes:
        with _mapped():
            return await anext(self._chunks, b"")

    def allow_silence(self, seconds: float) -> None:
        """httpx asks for its bound once, before the first byte."""

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._response.aclose()


class HttpxTransport:
    idle = 0  # httpx doesn't tell

    def __init__(self, connection: Connection) -> None:
        self._connect_timeout = connection.connect_timeout
        limits = httpx.Limits(
            max_connections=None,  # upstreams/pool.py bounds them, for all transports alike
            # What a provider sends behind an answer, httpx takes for the answer to the next request.
            max_keepalive_connections=0,
        )
        client = httpx.AsyncClient(limits=limits, http2=True, follow_redirects=False)
        self._client = checked(client, for_providers())
        self._room = Room(connection.longest_answer)
        self.opened_total = 0

    def can_begin(self, head: RequestHead) -> bool:
        return False  # it doesn't tell whether a connection is idle

    def begin(self, request: UpstreamRequest) -> SentRequest:
        raise NotImplementedError

    async def send(self, request: UpstreamRequest) -> HttpxResponse:
        with _mapped():
            prepared = self._client.build_request(
                "POST",
                request.head.url,
                content=request.body,
                headers=request.head.headers,
                extensions={"trace": self._count},
                timeout=httpx.Timeout(request.silence, connect=self._connect_timeout, pool=None),
            )
            response = await self._client.send(prepared, stream=True)
        return HttpxResponse(response, self._room)

    async def _count(self, event: str, _details: object) -> None:
        if event == "connection.connect_tcp.complete":
            self.opened_total += 1

    async def warm(self, url: str, wanted: int) -> None:
        """httpx opens connections only for requests."""

    async def aclose(self) -> None:
        await self._client.aclose()
