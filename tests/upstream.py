"""A real HTTP provider on loopback that does what a test scripts: answers, streams, faults."""

import asyncio
import contextlib
import json
import socket
import struct
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

USAGE = {"prompt_tokens": 24, "completion_tokens": 48, "total_tokens": 72}


def completion(text: str = "Hello!", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "upstream-model",
        "choices": [choice],
        "usage": USAGE,
    } | more


def events(*words: str, usage: bool = False, done: bool = True, finish: bool = True) -> list[bytes]:
    """The SSE events of a streamed answer."""
    common = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "m"}
    deltas = [({"content": word}, None) for word in words] + ([({}, "stop")] if finish else [])
    found = [
        common | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        for delta, reason in deltas
    ]
    if usage:
        found.append(common | {"choices": [], "usage": USAGE})
    lines = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in found]
    return [*lines, b"data: [DONE]\n\n"] if done else lines


@dataclass
class Answer:
    """One scripted answer. Times in seconds."""

    status: int = 200
    body: Any = None  # bytes, or an object sent as JSON; None: a completion
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] | None = None  # a stream; each chunk is one HTTP chunk
    at_once: bool = False  # head, chunks and end in one write
    gap: float = 0.0  # before each chunk but the first
    delay: float = 0.0  # before the status line
    gate: threading.Event | None = None  # must be set before the second chunk is sent
    cut: str = ""  # before_headers, mid_body, after_chunks: the connection is closed there
    reset: bool = False  # a cut is a TCP reset
    garbage: bytes = b""  # sent instead of HTTP
    stall: float = 0.0  # after the chunks, before the end
    tail: bytes = b""  # sent instead of the last chunk's end, as it is


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeUpstream:
    """Serves any number of providers: the first part of the path is the provider's name."""

    def __init__(self, port: int = 0) -> None:
        self._wanted_port = port
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.clear()
        self._thread.start()
        self._started.wait(10)

    def clear(self) -> None:
        self.seen: dict[str, list[Seen]] = {}
        self._scripts: dict[str, deque[Answer]] = {}
        self._default: dict[str, Answer] = {}
        self.open_connections = 0
        self.hang_ups: deque[float] = deque()  # when a client closed during an answer

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}/v1"

    def script(self, name: str, *answers: Answer) -> None:
        """These answers in order, then the default again."""
        self._scripts[name] = deque(answers)

    def always(self, name: str, answer: Answer) -> None:
        self._default[name] = answer

    def calls(self, name: str) -> list[Seen]:
        """Requests other than health probes."""
        return [seen for seen in self.seen.get(name, []) if seen.method == "POST"]

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(5)

    async def _end(self) -> None:
        self._closed = True  # a cancellation can be lost between two answers
        self._server.close()  # or its backlog would take connections that nobody answers
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._loop.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            asyncio.start_server(self._connection, "127.0.0.1", self._wanted_port, backlog=4096)
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_connections += 1
        try:
            while not self._closed and (seen := await _request(reader)) is not None:
                name = seen.path.split("/")[1]
                self.seen.setdefault(name, []).append(seen)
                if not await self._answer(self._next(name, seen), seen, reader, writer):
                    break
        except asyncio.CancelledError:
            writer.transport.abort()  # the server was closed
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hang_ups.append(time.monotonic())
        finally:
            self.open_connections -= 1
            writer.close()

    def _next(self, name: str, seen: Seen) -> Answer:
        if seen.method == "POST" and self._scripts.get(name):
            return self._scripts[name].popleft()
        return self._default.get(name, Answer())

    async def _answer(
        self, answer: Answer, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Whether the connection stays open."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            return await self._send(answer, seen, writer, gone)
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gone

    async def _send(
        self, answer: Answer, seen: Seen, writer: asyncio.StreamWriter, gone: "asyncio.Future[bytes]"
    ) -> bool:
        await self._sleep(answer.delay, gone)
        if answer.cut == "before_headers":
            return self._cut(answer, writer)
        if answer.garbage:
            writer.write(answer.garbage)
            await writer.drain()
            return False
        stream = seen.method == "POST" and b'"stream":true' in seen.body.replace(b": ", b":")
        if answer.chunks is not None or (stream and answer.body is None and answer.status == 200):
            return await self._stream(answer, writer, gone)
        return await self._whole(answer, writer)

    async def _whole(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        content = completion() if answer.body is None else answer.body
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))} | answer.headers
        writer.write(_head(answer.status, headers))
        if answer.cut == "mid_body":
            writer.write(body[: len(body) // 2])
            await writer.drain()
            return self._cut(answer, writer)
        writer.write(body)
        await writer.drain()
        return True

    async def _stream(
        self, answer: Answer, writer: asyncio.StreamWriter, gone: "asyncio.Future[bytes]"
    ) -> bool:
        headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"} | answer.headers
        chunks = events("Hel", "lo!") if answer.chunks is None else answer.chunks
        if answer.at_once:
            framed = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
            writer.write(b"".join([_head(answer.status, headers), *framed, b"0\r\n\r\n"]))
            await writer.drain()
            return True
        writer.write(_head(answer.status, headers))
        for number, chunk in enumerate(chunks):
            if number:
                await self._sleep(answer.gap, gone)
                await self._pass(answer.gate, gone)
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
        await self._sleep(answer.stall, gone)
        if answer.cut == "after_chunks":
            return self._cut(answer, writer)
        writer.write(answer.tail or b"0\r\n\r\n")
        await writer.drain()
        return not answer.tail

    async def _sleep(self, seconds: float, gone: "asyncio.Future[bytes]") -> None:
        """Sleep, unless the client hangs up meanwhile."""
        if seconds:
            await asyncio.wait([gone], timeout=seconds)
            self._check(gone)

    async def _pass(self, gate: threading.Event | None, gone: "asyncio.Future[bytes]") -> None:
        while gate is not None and not gate.is_set():
            await self._sleep(0.01, gone)

    def _check(self, gone: "asyncio.Future[bytes]") -> None:
        if gone.done() and not gone.result():
            raise ConnectionResetError("the client hung up")

    def _cut(self, answer: Answer, writer: asyncio.StreamWriter) -> bool:
        if answer.reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = head.split("\r\n")
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
        if name
    }
    method, path, _ = first.split(" ", 2)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Seen(method, path, headers, body, time.monotonic())


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")
