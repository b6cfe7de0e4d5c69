"""How often, how soon and how long a provider is asked, seen at the provider."""

import random
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.attempts.backoff import LONGEST_PAUSE, backoff
from routing.models import ModelRoute
from tests.factories import make_fallback, make_key
from tests.failing_over import results, route_over, row_of, stream
from tests.upstream import Answer, events

DOWN = Answer(status=500, body={})
BUSY = 3.0  # seconds that a busy machine may take; what would be wrong takes longer


@pytest.fixture
def gpt(upstream, published):
    def make(*slugs, **values):
        route_over(upstream, "gpt", *(slugs or ("p1",)), **values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def gaps(upstream, slug):
    return [after.at - before.at for before, after in pairwise(upstream.calls(slug))]


# Pauses

delays = some.floats(0, 60, allow_nan=False)


@given(delays, some.integers(0, 10), some.one_of(some.none(), some.floats(0, 3600)), some.integers(0, 99))
def test_a_pause_stays_in_its_bounds(delay, number, told, seed):
    pause = backoff(delay, number, told, random.Random(seed))
    assert pause >= (told or 0)
    assert pause <= max(min(delay * 2**number, LONGEST_PAUSE), told or 0)


def test_pauses_are_spread_over_the_whole_range():
    dice = random.Random(1)
    pauses = [backoff(1.0, 2, None, dice) for _ in range(1000)]
    assert min(pauses) < 0.1
    assert max(pauses) > 3.9
    assert 1.8 < sum(pauses) / 1000 < 2.2


def test_retries_stop_after_their_number(door, upstream, gpt):
    """How long the pauses between them are: test_retry_timing.py, where no time passes by itself."""
    key = gpt(provider={"retries": 3, "retry_delay": 0.05})
    upstream.always("p1", DOWN)
    answer = door.chat(key)
    assert answer.status_code == 502
    assert len(gaps(upstream, "p1")) == 3
    assert row_of(answer).attempts == 4


TOLD = {
    "retry_after": (429, {"retry-after": "1"}),
    "of_503": (503, {"retry-after": "1"}),
    "reset": (429, {"x-ratelimit-reset-requests": "700ms", "x-ratelimit-remaining-requests": "0"}),
}


@pytest.mark.parametrize(("status", "headers"), TOLD.values(), ids=TOLD)
def test_what_the_provider_asks_for_is_waited(door, upstream, gpt, status, headers):
    key = gpt(provider={"retries": 1, "retry_delay": 0.01})
    upstream.script("p1", Answer(status=status, body={}, headers=headers))
    assert door.chat(key).status_code == 200
    (gap,) = gaps(upstream, "p1")
    wanted = 0.7 if "x-ratelimit-reset-requests" in headers else 1.0
    assert wanted <= gap < wanted + BUSY


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_longer_than_the_time_left_fails_at_once(door, upstream, gpt, status):
    key = gpt(provider={"retries": 3}, deadline=10)
    upstream.always("p1", Answer(status=status, body={}, headers={"retry-after": "20"}))
    started = time.monotonic()
    answer = door.chat(key)
    assert time.monotonic() - started < BUSY
    assert answer.status_code == (429 if status == 429 else 502)
    if status == 429:
        assert answer.headers["retry-after"] == "20"
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("other", ["target", "route"])
def test_nobody_waits_for_one_provider_where_another_may_answer(
    door, upstream, gpt, status, other, published
):
    if other == "target":
        key = gpt("p1", "p2", provider={"retries": 3})
    else:
        key = gpt(provider={"retries": 3})
        make_fallback(ModelRoute.objects.get(name="gpt"), route_over(upstream, "second", "p2"))
        published()
    upstream.always("p1", Answer(status=status, body={}, headers={"retry-after": "20"}))
    started = time.monotonic()
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p2")
    assert time.monotonic() - started < BUSY
    assert len(upstream.calls("p1")) == 1


# What is sent again


@pytest.mark.parametrize("reset", [False, True])
def test_a_json_answer_cut_in_its_body_is_asked_for_again(door, upstream, gpt, reset):
    """No byte of it has reached the caller, who gets one whole answer."""
    key = gpt(provider={"retries": 1})
    upstream.script("p1", Answer(cut="mid_body", reset=reset))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "Hello!")
    assert len(upstream.calls("p1")) == 2


def test_a_stream_that_reached_the_caller_is_never_sent_again(door, upstream, gpt):
    key = gpt("p1", "p2", provider={"retries": 3})
    begun = events("Hel", done=False, finish=False)
    upstream.always("p1", Answer(chunks=begun, cut="after_chunks", stall=0.05))
    told = stream(door, key)
    assert (len(told.errors), told.dones) == (1, 0)
    assert (len(upstream.calls("p1")), len(upstream.calls("p2"))) == (1, 0)


# Limits of time and number


def test_a_first_byte_limit_leads_to_the_next_target(door, upstream, gpt):
    key = gpt("p1", "p2", first_byte_timeout=0.2)
    upstream.always("p1", Answer(delay=BUSY))
    told = stream(door, key)
    assert (told.text, told.answer.headers["x-proxy-provider"]) == ("Hello!", "p2")
    assert 0.15 <= upstream.calls("p2")[0].at - upstream.calls("p1")[0].at < 0.5 * BUSY
    assert results(told.row)[0] == (
        "p1",
        "upstream_timeout: p1: no first event in time (the first-byte time-out).",
    )


def test_a_first_byte_limit_is_no_limit_of_the_rest(door, upstream, gpt):
    key = gpt(first_byte_timeout=0.2, attempt_timeout=0.25)
    upstream.always("p1", Answer(chunks=events("a", "b", "c"), gap=0.15))
    told = stream(door, key)
    assert (told.text, told.dones) == ("abc", 1)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_each_attempt_has_its_deadline(door, upstream, gpt, streamed):
    key = gpt("p1", "p2", attempt_timeout=0.2)
    upstream.always("p1", Answer(delay=BUSY))
    answer = stream(door, key).answer if streamed else door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p2")
    assert 0.15 <= upstream.calls("p2")[0].at - upstream.calls("p1")[0].at < 0.5 * BUSY


def test_all_limits_of_time_hold_together(door, upstream, gpt):
    """Each attempt ends after 0.3 s, and after 0.8 s all is over, in the middle of the third."""
    key = gpt(
        "p1", "p2", "p3", "p4", attempt_timeout=0.3, first_byte_timeout=5, stall_timeout=5, deadline=0.8
    )
    for slug in ("p1", "p2", "p3", "p4"):
        upstream.always(slug, Answer(delay=3))
    started = time.monotonic()
    answer = door.chat(key, stream=True)
    assert 0.75 <= time.monotonic() - started < 1.3
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert [len(upstream.calls(slug)) for slug in ("p1", "p2", "p3", "p4")] == [1, 1, 1, 0]


def test_max_attempts_caps_retries_and_targets_together(door, upstream, gpt):
    key = gpt("p1", "p2", "p3", provider={"retries": 2}, max_attempts=4)
    for slug in ("p1", "p2", "p3"):
        upstream.always(slug, DOWN)
    answer = door.chat(key)
    assert answer.status_code == 502
    assert sum(len(upstream.calls(slug)) for slug in ("p1", "p2", "p3")) == 4
    assert len(upstream.calls("p1")) <= 3
    assert row_of(answer).attempts == 4
