"""A stream's stall time-out counts from event to event: what only keeps the line warm renews nothing."""

import asyncio
import json

import pytest

from proxy.sse import LONGEST_EVENT, StreamReader
from proxy.stall import Stall
from proxy.transports.base import TransportTimeout
from routing.compiler import current_version
from tests.factories import make_key
from tests.failing_over import part, route_over, row_of, stream, tokens
from tests.live import Door, until
from tests.upstream import Answer

LIMIT = 0.6  # the route's stall_timeout
GAP = 0.1
WHOLE = "".join(tokens(0, 60))
BEGUN = b"".join(part(tokens(0, 40), id="one", end=False))
REST = b"".join(part(tokens(40, 60), id="one", role=False))
COMMENT, PING = b": PROCESSING\n\n", b'event: ping\ndata: {"type": "ping"}\n\n'
EVENT = REST[: REST.index(b"\n\n") + 2]
MANY = 40  # of them; they would go on for much longer than LIMIT
WARM = {
    "comments": [COMMENT] * MANY,
    "pings": [PING] * MANY,
    "blank lines": [b"\n"] * MANY,
    "pieces of an event": [bytes([byte]) for byte in EVENT[:MANY]],
    "lines of an event": [b'data: {"a":\n'] + [b"data: \n"] * MANY,
}


@pytest.fixture
def gpt(upstream, published):
    def make(**values):
        provider = {"continues": "plain"}
        route_over(upstream, "gpt", "p1", "p2", provider=provider, **{"stall_timeout": LIMIT} | values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


@pytest.mark.parametrize("warm", WARM.values(), ids=WARM)
def test_what_only_keeps_the_line_warm_renews_nothing(door, upstream, gpt, warm):
    key = gpt()
    upstream.script("p1", Answer(chunks=[BEGUN, *warm, REST], gap=GAP))
    answer = door.chat(key, stream=True)
    assert answer.content.startswith(BEGUN)
    assert (
        "stall time-out"
        in json.loads(answer.content[answer.content.rindex(b"data: {") + 6 :])["error"]["message"]
    )
    assert (b"[DONE]" in answer.content, row_of(answer).outcome) == (False, "upstream_broken")
    until(lambda: len(upstream.hang_ups) == 1, "its connection is closed", 5)


def test_comments_renew_nothing_over_httpx_either(gateways, upstream, gpt, transactional_db):
    key, gateway = gpt(), gateways("httpx")
    gateway.wait_for_version(current_version())
    upstream.script("p1", Answer(chunks=[BEGUN, *[COMMENT] * MANY, REST], gap=GAP))
    told = stream(Door("fast_lane", gateway.url), key)
    assert "stall time-out" in told.errors[0]["message"]
    assert told.dones == 0


class Scripted:
    """A response whose chunks come, each after some seconds, while somebody waits for them."""

    def __init__(self, *chunks):
        self.chunks = list(chunks)

    async def next_chunk(self, sink=None):
        while self.chunks:
            seconds, chunk = self.chunks[0]
            await asyncio.sleep(seconds)
            del self.chunks[0]
            if sink is None or not sink(chunk):
                return chunk
        return b""


async def test_only_waiting_for_the_provider_counts():
    reader = StreamReader()
    response = Scripted((0, EVENT), (0.1, COMMENT), (0.1, COMMENT), (0.1, EVENT), (30, EVENT))
    stall = Stall(0.5, reader)
    for _ in range(4):
        reader.feed(await stall.next_chunk(response))
        await asyncio.sleep(0.3)  # the client is slow: 1.2 s in all
    with pytest.raises(TransportTimeout, match="sent no event for"):
        await stall.next_chunk(response)


async def test_the_pieces_of_an_event_that_passes_unread_count():
    reader = StreamReader()
    long = [(0.2, b"data: " + b"A" * (LONGEST_EVENT + 1)), *[(0.2, b"A" * 9)] * 5, (0.2, b"\n\n")]
    stall, response = Stall(0.5, reader), Scripted(*long, (30, EVENT))
    for _ in long:
        reader.feed(await stall.next_chunk(response))
    with pytest.raises(TransportTimeout):
        await stall.next_chunk(response)


@pytest.mark.parametrize("on_cut", ["continue", "hold"])
def test_another_target_goes_on_although_comments_come(door, upstream, gpt, on_cut):
    key = gpt(on_cut=on_cut)
    upstream.script("p1", Answer(chunks=[BEGUN, *[COMMENT] * MANY, REST], gap=GAP))
    rest = tokens(0, 60) if on_cut == "hold" else tokens(40, 60)
    upstream.script("p2", Answer(chunks=part(rest, id="two")))
    told = stream(door, key)
    assert (told.text, told.errors, told.dones) == (WHOLE, [], 1)


def test_a_stream_whose_events_come_in_time_goes_on_however_long_it_takes(door, upstream, gpt):
    key = gpt()
    events = part(tokens(0, 60), id="one")
    chunks = [piece for event in events for piece in (COMMENT, event[:20], event[20:])]
    upstream.script("p1", Answer(chunks=chunks, gap=GAP / 10))
    told = stream(door, key)
    assert (told.text, told.errors, told.dones) == (WHOLE, [], 1)
