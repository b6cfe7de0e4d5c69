"""A route may rather wait for its preferred target than go to another one, where a 429 is short."""

import time

import pytest

from tests.factories import make_key
from tests.failing_over import results, route_over, row_of, stream
from tests.upstream import Answer


def busy(seconds):
    return Answer(status=429, body={}, headers={"retry-after-ms": str(int(seconds * 1000))})


@pytest.fixture
def gpt(upstream, published):
    def make(**values):
        route_over(upstream, "gpt", "p1", "p2", **values)
        _, key = make_key()
        published()
        return key

    return make


def asked(upstream):
    return [len(upstream.calls(slug)) for slug in ("p1", "p2")]


def test_off_by_default_another_target_is_asked_at_once(door, upstream, gpt):
    key = gpt()
    upstream.script("p1", busy(0.3))
    assert door.chat(key).headers["x-proxy-provider"] == "p2"


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_a_short_pause_is_waited_for_even_without_retries(door, upstream, gpt, streamed):
    key = gpt(wait_for_preferred=2)
    upstream.script("p1", busy(0.3))
    answer = stream(door, key).answer if streamed else door.chat(key)
    assert answer.headers["x-proxy-provider"] == "p1"
    first, second = upstream.calls("p1")
    assert second.at - first.at >= 0.29
    assert [result for _, result in results(row_of(answer))][-1] in ("200", "not needed")


def test_it_is_waited_for_once_only(door, upstream, gpt):
    key = gpt(wait_for_preferred=2)
    upstream.always("p1", busy(0.1))
    assert door.chat(key).headers["x-proxy-provider"] == "p2"
    assert asked(upstream) == [2, 1]


def test_a_longer_pause_and_one_beyond_the_deadline_are_not_waited_for(door, upstream, gpt):
    key = gpt(wait_for_preferred=1)
    upstream.script("p1", busy(5))
    assert door.chat(key).headers["x-proxy-provider"] == "p2"
    assert asked(upstream) == [1, 1]


def test_the_callers_time_out_bounds_the_wait(door, upstream, gpt):
    key = gpt(wait_for_preferred=30)
    upstream.script("p1", busy(20))
    started = time.monotonic()
    answer = door.chat(key, headers={"x-litellm-timeout": "3"})
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p2")
    assert time.monotonic() - started < 3


def test_requests_that_come_during_the_pause_wait_as_well(door, upstream, gpt):
    key = gpt(wait_for_preferred=5)
    upstream.script("p1", busy(1.5))
    door.chat(key, headers={"x-litellm-timeout": "1"})  # does not wait: p2 answers
    answer = door.chat(key)
    assert answer.headers["x-proxy-provider"] == "p1"
    first, second = upstream.calls("p1")
    assert second.at - first.at >= 1.4
