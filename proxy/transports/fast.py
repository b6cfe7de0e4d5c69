"""The fast transport: pyreqwest for whole answers, aiohttp for streams (figures: docs/decisions.md)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import aiohttp
from pyreqwest import exceptions as pyreqwest_errors
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.response import Response

from proxy.transports.base import (
    ConnectFailed,
    ConnectionBroken,
    TransportFault,
    TransportTimeout,
    UpstreamRequest,
    UpstreamResponse,
)
from routing.table import Connection

FAULTS: tuple[tuple[type[Exception], type[TransportFault], str], ...] = (
    (pyreqwest_errors.ConnectTimeoutError, TransportTimeout, "timed out"),
    (pyreqwest_errors.RequestTimeoutError, TransportTimeout, "timed out"),
    (pyreqwest_errors.ConnectError, ConnectFailed, "connection failed"),
    (pyreqwest_errors.PyreqwestError, ConnectionBroken, "connection broken"),
    (aiohttp.ServerTimeoutError, TransportTimeout, "timed out"),
    (aiohttp.ClientConnectorError, ConnectFailed, "connection failed"),
    (aiohttp.InvalidURL, ConnectFailed, "connection failed"),
    (aiohttp.ClientError, ConnectionBroken, "connection broken"),
    (ConnectionError, ConnectionBroken, "connection broken"),
)
"""Narrow first. Messages are our own: the libraries' may hold a URL."""


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _fault(error) from error


def _fault(error: Exception) -> Exception:
    for foreign, ours, text in FAULTS:
        if isinstance(error, foreign):
            return ours(text)
    return error


class WholeResponse:
    """An answer that was read in full before we saw it."""

    __slots__ = ("_body", "_response", "status")

    def __init__(self, response: Response, body: bytes) -> None:
        self._response = response
        self._body = body
        self.status = response.status

    def header(self, name: str) -> str | None:
        return self._response.get_header(name)

    async def read(self) -> bytes:
        return self._body

    async def next_chunk(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def aclose(self) -> None:
        return None


class StreamedResponse:
    __slots__ = ("_response", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def read(self) -> bytes:
        with _mapped():
            return await self._response.read()

    async def next_chunk(self) -> bytes:
        try:
            return await self._response.content.readany()
        except Exception as error:
            raise _fault(error) from error

    async def aclose(self) -> None:
        self._response.close()


class FastTransport:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._whole = _pyreqwest_client(connection)
        self._streams: aiohttp.ClientSession | None = None

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        return await (self._send_stream(request) if request.stream else self._send_whole(request))

    async def _send_whole(self, request: UpstreamRequest) -> WholeResponse:
        try:
            call = self._whole.post(request.url).headers(request.headers).body_bytes(request.body).build()
            response = await call.send()
            return WholeResponse(response, bytes(await response.bytes()))
        except Exception as error:
            raise _fault(error) from error

    async def _send_stream(self, request: UpstreamRequest) -> StreamedResponse:
        if self._streams is None:
            self._streams = _aiohttp_session(self._connection)  # needs a running loop
        with _mapped():
            response = await self._streams.post(
                request.url, data=request.body, headers=request.headers, allow_redirects=False
            )
        return StreamedResponse(response)

    async def aclose(self) -> None:
        await self._whole.close()
        if self._streams is not None:
            await self._streams.close()


def _pyreqwest_client(connection: Connection) -> Client:
    builder = (
        ClientBuilder()
        .connect_timeout(timedelta(seconds=connection.connect_timeout))
        .read_timeout(timedelta(seconds=connection.read_timeout))
        .pool_idle_timeout(timedelta(seconds=connection.keep_alive))
        .follow_redirects(False)
        .referer(False)
    )
    if not connection.keep_alive:
        builder = builder.pool_max_idle_per_host(0)
    return builder.build()


def _aiohttp_session(connection: Connection) -> aiohttp.ClientSession:
    # No limit here: upstreams.py bounds the connections, for all transports alike.
    pool = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=connection.keep_alive)
        if connection.keep_alive
        else aiohttp.TCPConnector(limit=0, force_close=True)
    )
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=connection.connect_timeout, sock_read=connection.read_timeout
    )
    return aiohttp.ClientSession(
        connector=pool,
        timeout=timeout,
        trust_env=True,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding"),
    )
