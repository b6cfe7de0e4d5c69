"""The fast lane, the engine and the fast transport as they are, over a network in memory.

For `make profile` and for counting what a request costs: nothing else runs in between, so figures don't
depend on sockets or on other processes. One request is under way at a time on each connection.
"""

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

import proxy.gateway
from benchmarks.answers import Scenario, mark_in
from benchmarks.upstream import WRITES
from gateway_project import web
from gateway_project.lane import FastLaneProtocol
from proxy.batching import Together
from proxy.gateway import Gateway

LIMIT_SECONDS = 120
COMMON_HEADERS = [(b"date", b"Thu, 01 Jan 2026 00:00:00 GMT")]  # uvicorn's, of which it makes new ones


class MemoryTransport(asyncio.Transport):
    """One side of a connection: what is written goes to `on_write`."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self._on_write = on_write
        self._closing = False

    def write(self, data: Any) -> None:
        self._on_write(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    abort = close

    def end(self, protocol: asyncio.Protocol) -> None:
        """As a real transport does: tells its protocol, and forgets it."""
        protocol.connection_lost(None)
        self._on_write = _ignore

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


class MemoryLoop(uvloop.Loop):
    """Whoever opens a connection gets one to a provider in memory; see benchmarks/upstream.py.

    What is written during a turn leaves at its end, as with uvloop's own transports.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked: Together[tuple[asyncio.Protocol, bytes]] = Together(self.provide)

    async def create_connection(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        protocol = protocol_factory()
        transport = MemoryTransport(lambda data: self._asked.add((protocol, data)))
        protocol.connection_made(transport)
        return transport, protocol

    def provide(self, asked: list[tuple[asyncio.Protocol, bytes]]) -> None:
        for protocol, request in asked:
            self.call_soon(self.send, protocol, WRITES[mark_in(request)], 0)

    def send(self, protocol: asyncio.Protocol, writes: list[bytes], index: int) -> None:
        protocol.data_received(writes[index])
        if index + 1 < len(writes):
            self.call_soon(self.send, protocol, writes, index + 1)


class InProcess:
    """`gateway` has a table that serves `model` to `key`; its own threads need not run."""

    def __init__(self, gateway: Gateway, key: str, model: str) -> None:
        self._gateway, self._key, self._model = gateway, key, model
        self._runner = asyncio.Runner(loop_factory=MemoryLoop)
        self.state = ServerState()
        self.state.default_headers = list(COMMON_HEADERS)

    def __enter__(self) -> "InProcess":
        proxy.gateway._Running.gateway = self._gateway
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._gateway.aclose())
        self._runner.close()
        proxy.gateway.stop_gateway()

    def run(
        self,
        scenario: Scenario,
        requests: int,
        on_end: Callable[[], None] | None = None,
        on_begin: Callable[[], None] | None = None,
        connections: int = 1,
    ) -> None:
        """So many on each connection, one after the other.

        `on_end` is called when an answer's last byte was written.

        Raises TimeoutError where an answer doesn't come to its end, AssertionError where it is an error.
        """
        each = (scenario, requests, on_end or _nothing, on_begin or _nothing)
        self._runner.run(self._run_all([self._run(*each) for _ in range(connections)]))

    async def _run_all(self, connections: list[Coroutine[Any, Any, None]]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.gather(*connections)
        await asyncio.sleep(0)  # the journal writes behind the answers

    async def _run(
        self,
        scenario: Scenario,
        requests: int,
        on_end: Callable[[], None],
        on_begin: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        chunked = scenario.is_stream and not scenario.at_once
        ending = b"0\r\n\r\n" if chunked else scenario.answer[-40:]
        request, left = self._request(scenario), requests
        begun = True

        def ask() -> None:
            nonlocal begun
            begun = True
            on_begin()
            protocol.data_received(request)

        def write(data: bytes) -> None:
            nonlocal begun, left
            if begun:
                begun = False
                assert data.startswith(b"HTTP/1.1 200 "), data[:500]
            if data.endswith(ending):
                on_end()
                left -= 1
                loop.call_soon(ask) if left else loop.call_soon(done.set_result, None)

        protocol = _protocol(cast(Any, loop), self.state)
        transport = MemoryTransport(write)
        protocol.connection_made(transport)
        loop.call_soon(ask)
        await done
        transport.end(protocol)

    def _request(self, scenario: Scenario) -> bytes:
        body = scenario.ask(self._model)
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            "host: 127.0.0.1:4000",
            f"authorization: Bearer {self._key}",
            "content-type: application/json",
            f"content-length: {len(body)}",
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body


def _protocol(loop: asyncio.AbstractEventLoop, state: ServerState) -> FastLaneProtocol:
    config: uvicorn.Config = web.config("127.0.0.1", 4000, workers=1, drain_seconds=1)
    config.load()
    return FastLaneProtocol(config=config, server_state=state, app_state={}, _loop=loop)


def _nothing() -> None:
    return None


def _ignore(data: bytes) -> None:
    return None
