"""Streams that come from end to end in one write of the provider's: they need no relay."""

import pytest

from tests.factories import make_key
from tests.failing_over import part, route_over, stream, tokens
from tests.upstream import USAGE, Answer, events

GOOD = part(tokens(0, 30), id="x", usage=USAGE)


@pytest.fixture
def key(upstream, published):
    def make(provider=None, **route):
        route_over(upstream, "gpt", "p1", provider=provider or {}, **route)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def without_usage(chunks):
    return b"".join(chunk for chunk in chunks if b'"usage"' not in chunk)


@pytest.mark.parametrize("on_cut", ["error", "continue", "hold"])
def test_it_is_passed_on_and_counted_like_any_other(door, upstream, key, logged, on_cut):
    upstream.always("p1", Answer(chunks=GOOD, at_once=True))
    with door.stream(key(on_cut=on_cut)) as answer:
        told = answer.read()
    assert told == without_usage(GOOD)
    assert answer.headers["content-type"] == "text/event-stream"
    row = logged(answer)
    assert (row.outcome, row.status, row.stream) == ("answered", 200, True)
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (24, 48, False)
    assert row.cost_nano_usd == 24 * 1000 + 48 * 2000
    assert 0 < row.ttft_ms <= row.total_ms


def test_without_a_usage_it_is_estimated_by_its_text(door, upstream, key, logged):
    upstream.always("p1", Answer(chunks=part(tokens(0, 30), id="x"), at_once=True))
    row = logged(stream(door, key()).answer)
    assert row.tokens_estimated
    assert 30 <= row.output_tokens <= 120


@pytest.mark.parametrize(
    ("chunks", "outcome"),
    [
        ([*GOOD[:4], b"data: {half\n\n", *GOOD[4:]], "upstream_broken"),
        ([*GOOD[:4], b'data: {"error": {"message": "overloaded"}}\n\n'], "upstream_broken"),
        ([b'data: {"error": {"message": "overloaded"}}\n\n', *GOOD], "upstream_failed"),
        (events("Hel", "lo", done=False, finish=False), "upstream_broken"),
    ],
    ids=["malformed", "error", "error first", "no end"],
)
def test_one_that_is_not_good_ends_with_an_error(door, upstream, key, logged, chunks, outcome):
    upstream.always("p1", Answer(chunks=chunks, at_once=True))
    with door.stream(key()) as answer:
        told = answer.read()
    assert b'"error"' in told
    assert b"{half" not in told
    assert logged(answer).outcome == outcome


def test_its_connection_serves_the_next_one(door, upstream, key):
    upstream.always("p1", Answer(chunks=GOOD, at_once=True))
    plaintext = key({"max_connections": 1, "queue_timeout": 0.2})
    for _ in range(5):
        assert stream(door, plaintext).dones == 1
