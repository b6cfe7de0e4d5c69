"""A flood's provider: `python -m benchmarks.flood.provider PORT`. A path's first part says what it does."""

import asyncio
import json
import sys

CHUNK = 64 * 1024
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }
).encode()
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % (b"word " * 200)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((line for line in head.lower().split(b"\r\n") if b"content-length" in line), b":0")
            await reader.readexactly(int(length.split(b":")[1]))
            kind = head.split(b" ")[1].split(b"/")[1].decode()
            await ANSWERS.get(kind, quick)(writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the gateway hung up
    finally:
        writer.close()


async def quick(writer: asyncio.StreamWriter) -> None:
    writer.write(JSON_HEAD + b"content-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)
    await writer.drain()


async def slow(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.2)  # a pool of 10 serves 50 a second
    await quick(writer)


async def _endless(writer: asyncio.StreamWriter, first: bytes, piece: bytes, pause: float = 0.0) -> None:
    writer.write(STREAM_HEAD)
    for data in (first, *[piece] * 20_000):
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
        await asyncio.sleep(pause)


async def endless_event(writer: asyncio.StreamWriter) -> None:
    await _endless(writer, b'data: {"choices":[{"delta":{"content":"', b"x" * CHUNK)


async def endless_lines(writer: asyncio.StreamWriter) -> None:
    await _endless(writer, b"data: {\n", b'data: "a": 1,\n' * 4000)


async def endless_stream(writer: asyncio.StreamWriter) -> None:
    await _endless(writer, EVENT, EVENT * 20, 0.01)


async def endless_answer(writer: asyncio.StreamWriter) -> None:
    writer.write(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n")
    for _ in range(20_000):
        writer.write(b"%x\r\n%s\r\n" % (CHUNK, b"[" * CHUNK))
        await writer.drain()


ANSWERS = {
    "quick": quick,
    "slow": slow,
    "endless-event": endless_event,
    "endless-lines": endless_lines,
    "endless-stream": endless_stream,
    "endless-answer": endless_answer,
}


async def main(port: int) -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096, limit=2**22)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
