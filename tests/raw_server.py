"""A server on loopback that sends exactly the bytes that a test scripts, and keeps what it got."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Head and body of the next request. Raises IncompleteReadError at the end."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        return head, await self.reader.readexactly(int(length or b"0"))

    async def send(self, *pieces: bytes, gap: float = 0.01) -> None:
        """Each piece in a packet of its own."""
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(gap)
            self.writer.write(piece)
            await self.writer.drain()

    async def closed(self, seconds: float = 3.0) -> bool:
        """Whether the client closes within that time."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass  # a reset closes too
        return True

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class RawServer:
    port: int = 0
    opened: int = 0
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)

    def url(self, path: str = "/v1/chat") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.asynccontextmanager
async def serving(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[RawServer]:
    """`script` runs once per connection, which is closed after it."""
    server = RawServer()
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        server.opened += 1
        peer = Peer(reader, writer)
        server.peers.append(peer)
        try:
            await script(peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client closed
        except BaseException as fault:
            server.faults.append(fault)
        finally:
            writer.close()

    listener = await asyncio.start_server(connected, host, 0, ssl=tls, limit=2**17)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    wrong = [fault for fault in server.faults if not isinstance(fault, asyncio.CancelledError)]
    assert not wrong, wrong


def answering(*pieces: bytes, gap: float = 0.01, seen: list[tuple[bytes, bytes]] | None = None) -> Script:
    """Answers every request with these pieces, and keeps the connection."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            if seen is not None:
                seen.append(request)
            await peer.send(*pieces, gap=gap)

    return script


def whole(body: bytes = b"{}", *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
