"""Fake OpenAI provider for streams: `python -m benchmarks.upstream_stream PORT`.

Each event is a write of its own, and the other connections get their turn between two events, as
with a provider that generates many answers at once. There is no delay: the proxies are measured.
"""

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks import answers

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n"


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENTS = [_http_chunk(event) for event in answers.events()]
PIECES = [HEAD + EVENTS[0], *EVENTS[1:], _http_chunk(answers.DONE) + b"0\r\n\r\n"]


class StreamingProvider(asyncio.Protocol):
    """Answers every request with the same stream. Clients must not pipeline: wrk and proxies don't."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own classes don't inherit from it
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank_line, body = self.received.partition(b"\r\n\r\n")
        if not blank_line:
            return
        length = _content_length(head)
        if length is None:
            self.transport.write(LENGTH_REQUIRED)
            self.transport.close()
        elif len(body) >= length:
            self.received = b""
            self.send(0)

    def send(self, index: int) -> None:
        if index == len(PIECES) or self.transport.is_closing():
            return
        self.transport.write(PIECES[index])
        asyncio.get_running_loop().call_soon(self.send, index + 1)


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(StreamingProvider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
