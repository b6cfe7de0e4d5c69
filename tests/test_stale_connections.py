"""Kept connections that the provider has forgotten are the pool's business: no caller sees them."""

import asyncio
import contextlib
import random

import pytest

from proxy.transports import make_transport
from proxy.transports.base import ConnectionBroken, RequestHead, TransportFault, UpstreamRequest
from routing.table import Connection
from tests.factories import make_key
from tests.failing_over import route_over, row_of
from tests.live import eventually
from tests.raw_server import answering, serving, whole
from tests.upstream import Answer

CHUNKS = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@contextlib.asynccontextmanager
async def transport(name="fast", **settings):
    given = {"connect_timeout": 5, "read_timeout": 5, "max_connections": 100, "queue_timeout": 1}
    made = make_transport(name, Connection(**{**given, "keep_alive": 60, **settings}))
    try:
        yield made
    finally:
        await made.aclose()


def post(server, body=b"{}", stream=False):
    return UpstreamRequest(RequestHead(server.url(), []), body, stream)


async def read(made, request):
    response = await made.send(request)
    parts = []
    while part := await response.next_chunk():
        parts.append(part)
    return b"".join(parts)


class Forgetful:
    """Closes or resets kept connections at random moments: between answers, and at the next request."""

    def __init__(self, seed):
        self.dice, self.answered, self.dropped = random.Random(seed), [], 0

    async def __call__(self, peer):
        kept = False
        while True:
            _, body = await peer.request()
            if kept and self.dice.random() < 0.15:
                self.dropped += 1
                return peer.reset() if self.dice.random() < 0.5 else None
            await peer.send(CHUNKS if self.dice.random() < 0.5 else whole())
            self.answered.append(body)
            kept = True
            chance = self.dice.random()
            if chance < 0.05:
                return None
            if chance < 0.1:
                await asyncio.sleep(self.dice.random() * 0.002)
                return peer.reset()


@pytest.mark.parametrize(("name", "requests"), [("fast", 10_000), ("httpx", 10_000)])
async def test_no_request_fails_for_a_connection_that_was_forgotten(name, requests):
    server_side, dice = Forgetful(7), random.Random(11)
    async with serving(server_side) as server, transport(name) as made:

        async def caller(numbers):
            for number in numbers:
                assert await read(made, post(server, b"%d" % number, stream=dice.random() < 0.5)) == b"{}"

        await asyncio.gather(*(caller(range(first, requests, 16)) for first in range(16)))
    assert sorted(map(int, server_side.answered)) == list(range(requests)), "each is answered exactly once"
    assert server_side.dropped > (requests / 100 if name == "fast" else -1)


@pytest.mark.parametrize("how", ["closed", "reset"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_kept_connection_that_ends_at_once_is_replaced(how, stream):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.send(whole())
        if len(seen) == 1:
            seen.append(await peer.request())
            if how == "reset":
                peer.reset()

    async with serving(script) as server, transport() as made:
        for _ in range(2):
            assert await read(made, post(server, b"same", stream)) == b"{}"
        assert [body for _, body in seen] == [b"same"] * 3
        assert server.opened == made.opened_total == 2


async def test_what_was_begun_on_one_is_replaced_too():
    first = True

    async def script(peer):
        nonlocal first
        await peer.request()
        await peer.send(whole())
        if first:
            first = False
            await peer.request()

    async with serving(script) as server, transport() as made:
        request = post(server)
        assert await read(made, request) == b"{}"
        assert made.can_begin(request.head)
        response = await made.begin(request).head()
        assert await response.read() == b"{}"


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-le"])
async def test_nothing_is_sent_twice_after_a_byte_of_an_answer(begun):
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.send(whole())
        seen.append(await peer.request())
        await peer.send(begun)

    async with serving(script) as server, transport() as made:
        assert await read(made, post(server)) == b"{}"
        with pytest.raises(ConnectionBroken):
            await read(made, post(server))
        assert len(seen) == 2


async def test_nothing_is_sent_twice_after_a_second():
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        await peer.send(whole())
        seen.append(await peer.request())
        await asyncio.sleep(1.3)

    async with serving(script) as server, transport() as made:
        assert await read(made, post(server)) == b"{}"
        with pytest.raises(ConnectionBroken):
            await read(made, post(server))
        assert len(seen) == 2


async def test_a_new_connection_that_ends_at_once_is_a_failure_and_so_is_the_second():
    seen = []

    async def script(peer):
        seen.append(await peer.request())
        if len(seen) == 1:
            await peer.send(whole())
            seen.append(await peer.request())

    async with serving(script) as server, transport() as made:
        assert await read(made, post(server)) == b"{}"
        with pytest.raises(TransportFault):
            await read(made, post(server))
        assert len(seen) == 3, "once on the kept one, once on a new one"


async def test_where_one_was_forgotten_the_older_ones_are_not_tried():
    """A load balancer forgets them all."""
    dropped = 0

    async def script(peer):
        nonlocal dropped
        await peer.request()
        await peer.send(whole())
        await peer.request()
        dropped += 1
        peer.reset()

    async with serving(script) as server, transport() as made:
        await asyncio.gather(*(read(made, post(server)) for _ in range(6)))
        assert made.idle == 6
        assert await read(made, post(server)) == b"{}"
        assert (dropped, made.idle) == (1, 1)


async def test_a_connection_is_closed_before_the_provider_says_it_will():
    answer = whole(b"{}", b"Keep-Alive: timeout=2, max=100")
    async with serving(answering(answer)) as server, transport(keep_alive=60) as made:
        assert await read(made, post(server)) == b"{}"
        assert made.idle == 1
        await eventually(lambda: made.idle == 0, "it is closed", 1.9)


# Through the gateway


@pytest.mark.parametrize("retries", [0, 1])
def test_callers_and_books_see_nothing_of_it(door, upstream, published, retries):
    route_over(upstream, "gpt", "p1", provider={"retries": retries})
    _, key = make_key()
    published()
    upstream.always("p1", Answer(headers={"keep-alive": "timeout=60"}))
    for _ in range(3):
        assert door.chat(key).status_code == 200
        upstream.script("p1", Answer(cut="before_headers", reset=True))
        answer = door.chat(key)
        assert answer.status_code == 200
        row = row_of(answer)
        assert (row.outcome, row.attempts, len(row.attempt_trail)) == ("answered", 1, 1)
    assert len(upstream.calls("p1")) == 9
