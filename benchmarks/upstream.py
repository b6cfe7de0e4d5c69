"""Fake OpenAI provider for all but the quickest JSON: `python -m benchmarks.upstream PORT`.

A mark in the message names the scenario (benchmarks/answers.py). Each event of a stream is a write of
its own, and the other connections get their turn between two events, as with a provider that generates
many answers at once. There is no delay but where the scenario has one: the proxies are measured.
"""

import asyncio
import sys
from typing import cast

import uvloop

from benchmarks.answers import DONE, SCENARIOS, Scenario, mark_in

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
LENGTH_REQUIRED = b"HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\n\r\n"


def _json(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


HEALTHY = _json(b'{"status":"ok"}')  # some gateways look before they send


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _writes(scenario: Scenario) -> list[bytes]:
    if not scenario.is_stream:
        return [_json(scenario.answer)]
    first, *others = map(_chunk, scenario.events)
    writes = [STREAM_HEAD + first, *others, _chunk(DONE) + b"0\r\n\r\n"]
    return [b"".join(writes)] if scenario.at_once else writes


WRITES = {scenario.mark: _writes(scenario) for scenario in SCENARIOS.values()}
DELAYS = {scenario.mark: scenario.delay for scenario in SCENARIOS.values() if scenario.delay}


class Provider(asyncio.Protocol):
    """Clients must not pipeline: neither the load nor proxies do."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own classes don't inherit from it
        self.received: list[bytes] = []
        self.missing = 0  # bytes of the body under way

    def data_received(self, data: bytes) -> None:
        self.received.append(data)
        if self.missing > len(data):
            self.missing -= len(data)
            return
        request = self.received[0] if len(self.received) == 1 else b"".join(self.received)
        head, blank_line, body = request.partition(b"\r\n\r\n")
        if not blank_line:
            return
        length = 0 if head.startswith(b"GET ") else _content_length(head)
        if length is None:
            self.transport.write(LENGTH_REQUIRED)
            self.transport.close()
        elif len(body) >= length:
            self.received, self.missing = [], 0
            self.answer(body)
        else:
            self.received, self.missing = [request], length - len(body)

    def answer(self, body: bytes) -> None:
        mark = mark_in(body)
        writes = WRITES.get(mark)
        if writes is None:
            self.transport.write(HEALTHY)
        elif mark in DELAYS:
            asyncio.get_running_loop().call_later(DELAYS[mark], self.send, writes, 0)
        else:
            self.send(writes, 0)

    def send(self, writes: list[bytes], index: int) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(writes[index])
        if index + 1 < len(writes):
            asyncio.get_running_loop().call_soon(self.send, writes, index + 1)


def _content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


async def serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
