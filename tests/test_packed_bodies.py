"""Request bodies in a content coding are read through both doors, in bounded size, memory and time."""

import asyncio
import gzip
import time
import zlib

import brotli
import pytest
from backports import zstd

from proxy.bodies.budget import BodyBudget
from proxy.bodies.unpacking import Unpacking
from proxy.calls.call import Call, Incoming
from proxy.errors import BodiesInFlight, GatewayError, InvalidRequest, RequestTooLarge
from routing.table import EMPTY_TABLE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ask

MB = 1024 * 1024


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def two_members(data):
    return gzip.compress(data[:20]) + gzip.compress(data[20:])


def two_frames(data):
    return zstd.compress(data[:20]) + zstd.compress(data[20:])


PACKED = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "gzip of two members": ("gzip", two_members),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstd.compress),
    "zstd of two frames": ("zstd", two_frames),
    "identity": ("identity", bytes),
}
BOMBS = {
    "gzip": gzip.compress(b" " * 200 * MB),
    "deflate": zlib.compress(b" " * 200 * MB),
    "br": brotli.compress(b" " * 200 * MB, quality=5),
    "zstd": zstd.compress(b" " * 200 * MB),
}


@pytest.fixture
def gpt(upstream, published):
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    _, key = make_key(name="app")
    published()
    return key


def test_a_packed_body_is_served_as_if_it_had_come_plain(door, upstream, gpt, subtests):
    for name, (coding, pack) in PACKED.items():
        for size in (10, 200_000):
            with subtests.test(name, size=size):
                upstream.seen.clear()
                plain = ask("gpt", note="é" * size)
                answer = door.chat(gpt, content=pack(plain), headers={"content-encoding": coding})
                assert answer.status_code == 200, answer.text
                (seen,) = upstream.calls("p1")
                assert seen.json["note"] == "é" * size
                assert "content-encoding" not in seen.headers


@pytest.mark.parametrize("coding", ["compress", "aws-chunked", "gzip, br", "gzip, gzip"])
def test_another_coding_gets_415_which_names_those_there_are(door, gpt, logged, coding):
    answer = door.chat(gpt, content=ask("gpt"), headers={"content-encoding": coding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_content_encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate, br, zstd"
    assert "gzip, deflate, br and zstd" in answer.json()["error"]["message"]
    assert logged(answer).status == 415


@pytest.mark.parametrize("coding", BOMBS)
def test_what_unpacks_to_more_than_a_body_may_have_gets_413(door, gpt, coding):
    answer = door.chat(gpt, content=BOMBS[coding], headers={"content-encoding": coding})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_body_that_is_not_what_its_header_says_gets_400(door, gpt, subtests):
    for coding, pack in PACKED.values():
        if coding == "identity":
            continue
        packed = pack(ask("gpt"))
        for name, body in {
            "plain": ask("gpt"),
            "cut": packed[: len(packed) // 2],
            "trailed": packed + b"x" * 40_000,
            "empty": b"",
        }.items():
            with subtests.test(coding, name=name):
                answer = door.chat(gpt, content=body or None, headers={"content-encoding": coding})
                error = answer.json()["error"]
                assert (answer.status_code, error["param"]) == (400, "content-encoding")
                assert coding.lower() in error["message"]


def call_of(body, coding):
    return Call(Incoming("chat/completions", {b"content-encoding": coding.encode()}, body, 0.0), EMPTY_TABLE)


async def longest_turn(work):
    """CPU seconds of the longest callback of the event loop meanwhile, and what came of the work."""
    loop, longest = asyncio.get_running_loop(), 0.0
    task = loop.create_task(work)
    while not task.done():
        before = time.thread_time()
        await asyncio.sleep(0)
        longest = max(longest, time.thread_time() - before)
    return longest, task.exception()


EMPTY_MEMBERS = gzip.compress(b"") * 50_000
EMPTY_FRAMES = zstd.compress(b"") * 100_000
EMPTY_BLOCKS = zlib.compress(b"")[:2] + b"\x00\x00\x00\xff\xff" * 200_000
SLOW = BOMBS | {"gzip ": EMPTY_MEMBERS, "zstd ": EMPTY_FRAMES, "deflate ": EMPTY_BLOCKS}


@pytest.mark.parametrize("coding", SLOW)
def test_unpacking_keeps_the_event_loop_for_50_ms_at_most(coding):
    unpacking = Unpacking(100 * MB, BodyBudget(200 * MB))
    turn, error = asyncio.run(longest_turn(unpacking.unpack(call_of(SLOW[coding], coding.strip()))))
    assert turn < 0.05
    if coding in BOMBS:
        assert isinstance(error, RequestTooLarge)


def test_what_is_unpacked_counts_as_bodies_that_are_held_and_is_let_go():
    bodies = BodyBudget(3 * MB)
    unpacking = Unpacking(20 * MB, bodies)
    call = call_of(gzip.compress(b" " * 2 * MB), "gzip")
    asyncio.run(unpacking.unpack(call))
    assert bodies.held == 2 * MB == len(call.incoming.body)
    other = call_of(gzip.compress(b" " * 2 * MB), "gzip")
    with pytest.raises(BodiesInFlight):
        asyncio.run(unpacking.unpack(other))
    other.incoming.unpacked.release()
    call.incoming.unpacked.release()
    assert bodies.held == 0


def test_a_window_that_only_an_attacker_needs_is_refused():
    huge = zstd.compress(b"x" * 10, options={zstd.CompressionParameter.window_log: 27})
    frame = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    streamed = frame.compress(b"x" * 10) + frame.flush()
    for body in (huge, streamed):
        error = None
        try:
            asyncio.run(Unpacking(MB, BodyBudget(MB)).unpack(call_of(body, "zstd")))
        except GatewayError as refused:
            error = refused
        assert error is None or isinstance(error, InvalidRequest)
    assert isinstance(error, InvalidRequest)
