"""What somebody may send, on loopback. An attack goes on until it is cancelled and counts its requests."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

MB = 1 << 20
CHAT = "POST /v1/chat/completions"
PIECE = 256 * 1024


@dataclass(slots=True)
class Aim:
    """A gateway, the keys that the attacker has, and what was sent so far."""

    port: int
    key: str
    requests: int = 0


Attack = Callable[[Aim], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Flood:
    name: str
    attack: Attack
    connections: int = 8
    victims_model: str = "quick"
    with_key: bool = False  # then each call is on the books, as every call of a key is


def head(
    line: str, *, key: str = "", length: int | None = None, host: str = "localhost", **more: str
) -> bytes:
    lines = [f"{line} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"authorization: Bearer {key}"] if key else []
    lines += [f"content-length: {length}"] if length is not None else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def pieces(size: int, start: bytes = b"", byte: bytes = b" ") -> Iterator[bytes]:
    yield start
    piece = byte * PIECE
    for _ in range(size // PIECE):
        yield piece
    yield byte * (size % PIECE)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Whoever is hung up on comes back."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.1)
        raise
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def again(once: Callable[[Aim], Awaitable[None]]) -> Attack:
    """Without end, whatever becomes of it."""

    async def attack(aim: Aim) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await once(aim)
            await asyncio.sleep(0)

    return attack


async def send(aim: Aim, data: Iterable[bytes], seconds: float = 60.0) -> bytes:
    """One request on a connection of its own; the status line of what came back."""
    aim.requests += 1
    async with asyncio.timeout(seconds), connected(aim.port) as (reader, writer):
        answered = asyncio.ensure_future(reader.readline())
        try:
            for piece in data:
                writer.write(piece)
                await writer.drain()
            return await answered
        finally:
            answered.cancel()


def plain(start: bytes | Callable[[Aim], bytes], size: int = 0, byte: bytes = b" ") -> Attack:
    async def once(aim: Aim) -> None:
        await send(aim, pieces(size, start(aim) if callable(start) else start, byte))

    return again(once)


async def _drip(aim: Aim) -> None:
    """19 MB of 20, then a byte each 15 s."""
    aim.requests += 1
    async with connected(aim.port) as (_, writer):
        for piece in pieces(19 * MB, head(CHAT, length=20 * MB)):
            writer.write(piece)
            await writer.drain()
        while not writer.is_closing():
            await asyncio.sleep(15)
            writer.write(b" ")
            await writer.drain()


async def _headers(aim: Aim) -> None:
    line = b"x-a: b\r\n" * 10_000
    await send(aim, [b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n", *[line] * 200])


async def _paths(aim: Aim) -> None:
    for path in ("/nothing", "/admin/login/", "/health", "/v1/models"):
        with contextlib.suppress(OSError, TimeoutError):
            await send(aim, pieces(200 * MB, head(f"POST {path}", length=200 * MB)))


async def _token(aim: Aim) -> tuple[str, str] | None:
    async with connected(aim.port) as (reader, writer):
        writer.write(head("GET /admin/login/", connection="close"))
        page = (await reader.read()).decode(errors="replace")
    token = re.search(r'csrfmiddlewaretoken" value="([^"]+)"', page)
    cookie = re.search(r"csrftoken=([^;]+)", page)
    return None if token is None or cookie is None else (token[1], cookie[1])


async def _log_in(aim: Aim, *, times: int) -> None:
    token = await _token(aim)
    if token is None:
        await asyncio.sleep(0.2)
        return
    for _ in range(times):
        await send(aim, [_form(*token)])


async def _log_ins(aim: Aim) -> None:
    token = await _token(aim)
    if token is None:
        await asyncio.sleep(0.2)
        return
    await asyncio.gather(*(send(aim, [_form(*token)]) for _ in range(60)), return_exceptions=True)


def _form(token: str, cookie: str) -> bytes:
    form = f"csrfmiddlewaretoken={token}&username=admin&password=wrong".encode()
    sent = head("POST /admin/login/", length=len(form), cookie=f"csrftoken={cookie}")
    return sent.replace(b"application/json", b"application/x-www-form-urlencoded") + form


async def _odd(aim: Aim) -> None:
    for sent in (
        head("GET /v1/models", host="elsewhere.test"),
        head("GET /admin/", host="elsewhere.test"),
        head("GET /nowhere"),
        head("GET /v1/realtime", upgrade="websocket", connection="upgrade"),
    ):
        await send(aim, [sent])


def body(model: str = "quick", **more: object) -> bytes:
    found = {"model": model, "messages": [{"role": "user", "content": "Hello"}]} | more
    return json.dumps(found).encode()


def wrong_key(aim: Aim, size: int) -> bytes:
    return head(CHAT, key=f"{aim.requests}-".ljust(size, "k"), length=2) + b"{}"


def named(aim: Aim, size: int) -> bytes:
    return chat(body(f"wild/{aim.requests}-".ljust(size, "m")))(aim)


def blanks() -> bytes:
    return b'{"model":"quick",' + b" " * 19 * MB + b'"messages":[]}'


def escapes() -> bytes:
    return b'{"model":"quick","messages":[{"role":"user","content":"' + b"\\n" * (8 * MB) + b'"}]}'


async def _tiny_chunks(aim: Aim) -> None:
    await send(aim, [head(CHAT, key=aim.key, transfer_encoding="chunked"), *[b"1\r\n \r\n" * 10_000] * 100])


def chat(content: bytes) -> Callable[[Aim], bytes]:
    return lambda aim: head(CHAT, key=aim.key, length=len(content)) + content


async def _no_key(aim: Aim) -> None:
    content = body()
    await send(aim, [head(CHAT, length=len(content), x_litellm_tags="a,b", x_session_id="s") + content])


async def _idle(aim: Aim) -> None:
    aim.requests += 1
    async with connected(aim.port) as (reader, _):
        await reader.read()


async def _reads_nothing(aim: Aim) -> None:
    aim.requests += 1
    content = body("endless-stream", stream=True)
    async with connected(aim.port) as (reader, writer):
        writer.write(chat(content)(aim))
        await writer.drain()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(300)


async def _stream(aim: Aim, model: str) -> None:
    aim.requests += 1
    async with asyncio.timeout(20), connected(aim.port) as (reader, writer):
        writer.write(chat(body(model, stream=True))(aim))
        while await reader.read(PIECE):
            pass


def streams(model: str) -> Attack:
    return again(lambda aim: _stream(aim, model))


def many_keys() -> bytes:
    names = ",".join(f'"k{number}":1' for number in range(1_400_000))
    return b"{" + names.encode() + b',"model":"quick","messages":[]}'


def deep(depth: int) -> bytes:
    return b'{"model":"quick","messages":' + b"[" * depth + b"]" * depth + b"}"


@dataclass(slots=True)
class Harmless:
    """So many small calls, spread over the time."""

    calls: int
    seconds: float
    sent: int = field(default=0)

    async def run(self, aim: Aim) -> None:
        content = chat(body())(aim)
        pause = self.seconds / max(self.calls, 1)
        due = asyncio.get_running_loop().time()
        running: set[asyncio.Task[bytes]] = set()
        for _ in range(self.calls):
            due += pause
            await asyncio.sleep(max(due - asyncio.get_running_loop().time(), 0))
            task = asyncio.ensure_future(send(aim, [content]))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.sleep(self.seconds)


FLOODS = (
    Flood("wrong keys with 2 MB", plain(head(CHAT, key="sk-wrong", length=2 * MB), 2 * MB)),
    Flood("one header of 68 MB", plain(b"GET / HTTP/1.1\r\nhost: localhost\r\nx-a: ", 68 * MB, b"a"), 2),
    Flood("a URL of 30 MB", plain(b"GET /", 30 * MB, b"a"), 2),
    Flood("2,000,000 headers", again(_headers), 2),
    Flood("40 bodies of 19 MB without a key, then drops", again(_drip), 40),
    Flood("200 MB to pages, health, models, nothing", again(_paths), 4),
    Flood("60 log-ins at once", again(_log_ins), 1),
    Flood("25 wrong passwords, one after the other", again(partial(_log_in, times=25)), 1),
    Flood("calls without a key", again(_no_key), 16),
    Flood("wrong keys of 512 KB", plain(lambda aim: wrong_key(aim, 512 * 1024)), 4),
    Flood("wrong keys of 500 bytes, each another", plain(lambda aim: wrong_key(aim, 500)), 16),
    Flood("model names of 1 MB, each another", plain(lambda aim: named(aim, MB)), 4, with_key=True),
    Flood("model names of 250 bytes, each another", plain(lambda aim: named(aim, 250)), 16, with_key=True),
    Flood("wrong Host, 404, upgrade", again(_odd), 8),
    Flood("2,500 connections", again(_idle), 2500),
    Flood("[[[[ 100,000 deep", plain(chat(deep(100_000))), 4, with_key=True),
    # One at a time: such a body is there in the parts that it came in and whole, or whole and as it is sent.
    Flood("JSON with 1,400,000 keys", plain(chat(many_keys())), 1, with_key=True),
    Flood("19 MB of blanks", plain(chat(blanks())), 1, with_key=True),
    Flood("16 MB of escapes", plain(chat(escapes())), 1, with_key=True),
    Flood("1,000,000 chunks of a byte", again(_tiny_chunks), 4, with_key=True),
    Flood("clients that read nothing", again(_reads_nothing), 20, with_key=True),
    Flood("one key that fills a pool", plain(chat(body("shared"))), 64, "shared", with_key=True),
    Flood("a provider's endless event", streams("endless-event"), 4, with_key=True),
    Flood("a provider's endless lines", streams("endless-lines"), 4, with_key=True),
    Flood("a provider's endless stream", streams("endless-stream"), 4, with_key=True),
    Flood("a provider's endless answer", plain(chat(body("endless-answer"))), 4, with_key=True),
)
