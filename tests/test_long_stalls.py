"""A provider that falls silent for 30 s in the middle of a stream: callers are told long before."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.factories import make_key
from tests.failing_over import part, results, route_over, stream, tokens
from tests.live import until
from tests.upstream import Answer

SILENCE = 30.0  # seconds that the provider would keep silent
LIMIT = 0.5  # the route's stall_timeout
SOON = 10.0  # "long before", on a busy machine
WHOLE = "".join(tokens(0, 60))
BEGUN = part(tokens(0, 40), id="one", end=False)
REST = Answer(chunks=part(tokens(40, 60), id="two"))
ANEW = Answer(chunks=part(tokens(0, 60), id="two"))
# Before the rest of the answer, which comes to who still waits; or, with all words there, before its end.
SILENT = Answer(chunks=[b"".join(BEGUN), b"".join(part(tokens(40, 60), id="one", role=False))], gap=SILENCE)
SILENT_AT_ITS_END = Answer(chunks=BEGUN, stall=SILENCE)


@pytest.fixture
def gpt(upstream, published):
    """Makes the route gpt over p1 and p2, in this order; returns a key."""

    def make(**values):
        provider = {"continues": "plain", "read_timeout": 60} | values.pop("provider", {})
        values = {"stall_timeout": LIMIT, "deadline": 120, "provider": provider} | values
        route_over(upstream, "gpt", "p1", "p2", **values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def timed(door, key):
    """(what the caller was told, seconds that it took)."""
    began = time.monotonic()
    told = stream(door, key)
    return told, time.monotonic() - began


def is_closed(upstream):
    """The gateway has left the silent provider: nothing goes on being paid for."""
    until(lambda: len(upstream.hang_ups) == 1, "the silent connection is closed", 5)


@pytest.mark.parametrize("silent", [SILENT, SILENT_AT_ITS_END], ids=["in_the_middle", "before_the_end"])
def test_the_caller_of_a_silent_stream_is_told_long_before_its_provider_goes_on(door, upstream, gpt, silent):
    key = gpt()
    upstream.script("p1", silent)
    told, took = timed(door, key)
    assert LIMIT <= took < SOON
    assert told.text == "".join(tokens(0, 40)), "what had come is the caller's"
    (error,) = told.errors
    assert (error["code"], error["provider"]) == ("upstream_timeout", "p1")
    assert (told.dones, told.finished) == (0, [])
    is_closed(upstream)
    assert told.row.outcome == "upstream_broken"
    assert len(upstream.calls("p1")) == 1
    assert upstream.calls("p2") == []


@pytest.mark.parametrize("silent", [SILENT, SILENT_AT_ITS_END], ids=["in_the_middle", "before_the_end"])
@pytest.mark.parametrize(("on_cut", "other"), [("continue", REST), ("hold", ANEW)])
def test_another_target_gives_the_whole_answer_once(door, upstream, gpt, on_cut, other, silent):
    key = gpt(on_cut=on_cut)
    upstream.script("p1", silent)
    upstream.script("p2", other)
    told, took = timed(door, key)
    assert LIMIT <= took < SOON
    assert told.text == WHOLE
    assert (len(told.ids), told.roles, told.finished) == (1, ["assistant"], ["stop"])
    assert (told.errors, told.dones) == ([], 1)
    is_closed(upstream)
    assert (len(upstream.calls("p1")), len(upstream.calls("p2"))) == (1, 1)
    row = told.row
    assert (row.outcome, row.status, row.provider, row.attempts) == ("answered", 200, "p2", 2)
    assert "p1" in results(row)[0][1]


def test_a_target_that_keeps_falling_silent_is_left_alone(door, upstream, gpt):
    """Its circuit opens like after any other failure; then nobody waits for the limit any more."""
    key = gpt(on_cut="continue")
    upstream.always("p1", SILENT)
    upstream.always("p2", REST)
    for number in range(1, 4):
        assert timed(door, key)[0].text == WHOLE
        assert len(upstream.calls("p1")) == number
    upstream.always("p2", ANEW)
    for _ in range(5):
        told, _ = timed(door, key)
        assert (told.text, told.ids, told.answer.headers["x-proxy-provider"]) == (WHOLE, {"two"}, "p2")
    assert len(upstream.calls("p1")) == 3, "it is left alone"
    until(lambda: len(upstream.hang_ups) == 3, "all its silent connections are closed", 5)


def test_others_on_the_same_target_are_not_disturbed(door, upstream, gpt):
    """Their streams run on past the moment at which the silent one is given up."""
    key = gpt()
    slow = Answer(chunks=part(tokens(0, 60), id="slow"), gap=0.03)
    upstream.script("p1", SILENT, slow, slow)
    with ThreadPoolExecutor() as callers:
        silent = callers.submit(timed, door, key)
        until(lambda: len(upstream.calls("p1")) == 1, "the silent one is asked")
        others = [callers.submit(timed, door, key) for _ in range(2)]
        for other in others:
            told, took = other.result()
            assert (told.text, told.errors, told.dones) == (WHOLE, [], 1)
            assert took > LIMIT
        told, took = silent.result()
    assert (len(told.errors), told.dones) == (1, 0)
    assert took < SOON
    is_closed(upstream)
