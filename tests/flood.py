"""Thousands of requests over some dozen connections, on bare sockets: a client library would take minutes."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.live import ask

CONNECTIONS = 64
_PROVIDER = re.compile(rb"\r\nx-proxy-provider: ([^\r]*)")
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)")


@dataclass(frozen=True, slots=True)
class Told:
    """What a caller was told: the status, and which provider served it ("" for none)."""

    status: int
    provider: str


def chat(key: str, model: str = "gpt", **headers: str) -> bytes:
    """One request as bytes; `headers` with underscores for hyphens."""
    content = ask(model)
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: gateway",
        "content-type: application/json",
        f"authorization: Bearer {key}",
        f"content-length: {len(content)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def flood(port: int, requests: Iterable[bytes], connections: int = CONNECTIONS) -> list[Told]:
    """Sends all of them, `connections` at a time; what each was told, in the order of `requests`."""
    wanted = list(requests)
    found: dict[int, Told] = {}

    async def run() -> None:
        left = iter(enumerate(wanted))
        await asyncio.gather(*(_connection(port, left, found) for _ in range(connections)))

    asyncio.run(run())
    return [found[number] for number in range(len(wanted))]


async def _connection(port: int, left: Iterator[tuple[int, bytes]], found: dict[int, Told]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number, request in left:
        writer.write(request)
        found[number] = await _told(reader)
    writer.close()
    await writer.wait_closed()


async def _told(reader: asyncio.StreamReader) -> Told:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = _LENGTH.search(head)
    assert length is not None, head
    await reader.readexactly(int(length[1]))
    provider = _PROVIDER.search(head)
    return Told(int(head.split(b" ", 2)[1]), provider[1].decode() if provider else "")
