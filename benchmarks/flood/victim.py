"""Somebody who only wants answers: `python -m benchmarks.flood.victim PORT KEY MODEL SECONDS`.

Prints milliseconds and statuses of 10 calls a second, begun when they are due, whatever became of those
before; each on its own connection.
"""

import asyncio
import json
import sys
import time

PER_SECOND = 10
PATIENCE = 30.0


async def call(port: int, request: bytes) -> tuple[float, int]:
    """(milliseconds, status); status 0 where none came."""
    began = time.perf_counter()
    status = 0
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(request)
                await writer.drain()
                status = int((await reader.readline()).split(b" ")[1])
                await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError, IndexError):
        status = 0
    return (time.perf_counter() - began) * 1000, status


def request_of(key: str, model: str) -> bytes:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
    head += f"content-type: application/json\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def main(port: int, key: str, model: str, seconds: float) -> None:
    request = request_of(key, model)
    began = asyncio.get_running_loop().time()
    calls = []
    for number in range(int(seconds * PER_SECOND)):
        await asyncio.sleep(began + number / PER_SECOND - asyncio.get_running_loop().time())
        calls.append(asyncio.create_task(call(port, request)))
    found = await asyncio.gather(*calls)
    print(json.dumps([[round(ms, 2), status] for ms, status in found]))


if __name__ == "__main__":
    port, key, model, seconds = sys.argv[1:5]
    asyncio.run(main(int(port), key, model, float(seconds)))
