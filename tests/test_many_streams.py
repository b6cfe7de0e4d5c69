"""A thousand streams open at once in one process: each begins, each ends whole, each leaves one row."""

import asyncio
import resource
from collections import Counter

import pytest

from monitoring.models import RequestLog
from routing.compiler import current_version
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, LiveGateway, ask, until
from tests.upstream import events

FIRST, *REST = events("first", "last", usage=True)
FEW_FILES = 256  # the usual limit of a shell is 1,024: too low for a thousand streams


class HeldUpstream:
    """Sends each stream's first event, then holds all of them until let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.held = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        writer.write(_chunk(FIRST))
        self.held += 1
        await self.go.wait()
        writer.write(b"".join(map(_chunk, REST)) + b"0\r\n\r\n")
        await writer.drain()
        writer.close()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def one_stream(port: int, request: bytes, began: asyncio.Semaphore) -> bytes:
    """The whole answer; `began` is raised when its first event has come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    found = await reader.readuntil(b'"first"')
    began.release()
    found += await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    return found


async def all_streams(port: int, requests: list[bytes], upstream: HeldUpstream) -> list[bytes]:
    began = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(one_stream(port, request, began)) for request in requests]
    try:
        for _ in requests:
            await asyncio.wait_for(began.acquire(), 30)
        assert upstream.held == len(requests)
        assert not any(task.done() for task in tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
    finally:
        upstream.go.set()
    return await asyncio.wait_for(asyncio.gather(*tasks), 30)


@pytest.fixture
def many_files():
    """This process needs a file per client and per upstream connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip(f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def gateway(tmp_path, own_log, many_files):
    """Started under a low limit, as from a user's shell."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_FILES, many_files))
    live = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"})
    try:
        live.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (many_files, many_files))
    yield live
    live.stop()


@pytest.mark.parametrize(("door", "streams"), [("fast_lane", 1000), ("drf", 100)])
def test_all_streams_begin_while_all_are_open_and_end_whole(gateway, door, streams):
    async def run() -> list[bytes]:
        upstream = HeldUpstream()
        server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=4096)
        async with server:
            requests = await asyncio.to_thread(prepare, server.sockets[0].getsockname()[1])
            return await all_streams(gateway.port, requests, upstream)

    def prepare(port: int) -> list[bytes]:
        provider = make_provider(slug="p1", base_url=f"http://127.0.0.1:{port}/v1")
        make_target(route=make_route(name="gpt"), provider=provider)
        _, key = make_key()
        gateway.wait_for_version(current_version())
        return [_request(key, number, door) for number in range(streams)]

    answers = asyncio.run(run())
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert _dechunked(body) == b"".join([FIRST, *REST])
    until(lambda: RequestLog.objects.count() >= streams, lambda: f"{RequestLog.objects.count()} rows", 20)
    rows = list(RequestLog.objects.values_list("request_id", "outcome", "output_tokens"))
    assert Counter(name for name, _, _ in rows) == {f"many-{number}": 1 for number in range(streams)}
    assert {row[1:] for row in rows} == {("answered", 48)}


def _request(key: str, number: int, door: str) -> bytes:
    body = ask("gpt", stream=True, stream_options={"include_usage": True})
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: localhost",
        f"authorization: Bearer {key}",
        f"x-request-id: many-{number}",
        f"content-length: {len(body)}",
        *([f"origin: {ORIGIN}"] if door == "drf" else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _dechunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found, body = found + rest[:length], rest[length + 2 :]
    return found
