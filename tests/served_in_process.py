"""Both doors behind a real socket, in this process: to count objects and time what the event loop runs."""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from uvicorn.server import ServerState

import proxy.gateway
from benchmarks.in_process import COMMON_HEADERS, _protocol
from proxy.gateway import Gateway

Found = TypeVar("Found")
ORIGIN = {"origin": "http://browser.test"}  # sends a request through Django's door


class ServedInProcess:
    """`gateway` has its table; its own threads need not run."""

    def __init__(self, gateway: Gateway, loop_factory: Callable[[], Any] = asyncio.SelectorEventLoop) -> None:
        self._gateway = gateway
        self._runner = asyncio.Runner(loop_factory=loop_factory)
        self.state = ServerState()
        self.state.default_headers = list(COMMON_HEADERS)
        self.port = 0

    def __enter__(self) -> "ServedInProcess":
        proxy.gateway._Running.gateway = self._gateway
        self._runner.run(self._listen())
        return self

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _protocol(loop, self.state), "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._end())
        self._runner.close()
        proxy.gateway.stop_gateway()

    async def _end(self) -> None:
        self._server.close()
        await self._gateway.aclose()

    def run(self, coroutine: Coroutine[Any, Any, Found]) -> Found:
        return self._runner.run(coroutine)

    async def client(self) -> "Client":
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20))


class Client:
    """One connection that is kept alive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def send(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> None:
        lines = [f"POST {path} HTTP/1.1", "host: 127.0.0.1", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head[9:12])
        if b"transfer-encoding: chunked" in head:
            return status, await self._reader.readuntil(b"\r\n0\r\n\r\n")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return status, await self._reader.readexactly(length)

    async def ask(self, body: bytes, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, bytes]:
        self.send(body, path, **headers)
        await self._writer.drain()
        return await self.answer()

    async def close(self, *, reset: bool = False) -> None:
        if reset:
            self._writer.transport.abort()
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
