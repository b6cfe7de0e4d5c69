"""A second target is asked when the first takes too long: the first answer wins, and only it is billed."""

import threading
import time

import httpx
import pytest

from monitoring.models import RequestLog
from tests.factories import make_key, make_team
from tests.failing_over import results, route_over, row_of, stream
from tests.live import ask, until
from tests.upstream import Answer, events

LATE = Answer(delay=3)


@pytest.fixture
def gpt(upstream, published):
    def make(*slugs, key=None, **values):
        values = {"hedge_after_ms": 100} | values
        route_over(upstream, "gpt", *(slugs or ("p1", "p2")), **values)
        _, plaintext = make_key(**key or {})
        published()
        return plaintext

    return make


def asked(upstream, *slugs):
    return [len(upstream.calls(slug)) for slug in slugs]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_the_second_target_answers_where_the_first_is_late(door, upstream, gpt, streamed):
    key = gpt()
    upstream.always("p1", LATE)
    started = time.monotonic()
    answer = stream(door, key).answer if streamed else door.chat(key)
    ended = time.monotonic()
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p2")
    assert ended - started < 1
    gap = upstream.calls("p2")[0].at - upstream.calls("p1")[0].at
    assert 0.09 <= gap < 0.4
    until(lambda: upstream.hang_ups, "the loser's connection is closed", 1)
    assert upstream.hang_ups[0] - ended < 1
    row = row_of(answer)
    assert (row.provider, row.upstream_model, row.attempts) == ("p2", "p2-model", 2)
    assert results(row) == [("p1", "cancelled: another target was first"), ("p2", "200")]
    if not streamed:
        assert row.cost_nano_usd == 24 * 1000 + 48 * 2000  # one answer's


def test_the_first_target_may_still_win(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(delay=0.25))
    upstream.always("p2", LATE)
    answer = door.chat(key)
    assert answer.headers["x-proxy-provider"] == "p1"
    row = row_of(answer)
    assert (row.provider, row.upstream_model, row.attempts) == ("p1", "p1-model", 2)
    assert results(row) == [("p1", "200"), ("p2", "cancelled: another target was first")]
    until(lambda: upstream.hang_ups, "the loser's connection is closed", 1)


def test_a_fast_answer_asks_no_second_target(door, upstream, gpt):
    key = gpt()
    assert door.chat(key).headers["x-proxy-provider"] == "p1"
    assert asked(upstream, "p1", "p2") == [1, 0]


def test_a_second_target_that_fails_is_not_asked_again(door, upstream, gpt):
    key = gpt("p1", "p2", "p3")
    upstream.always("p1", Answer(status=500, body={}, delay=0.3))
    upstream.always("p2", Answer(status=500, body={}))
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p3")
    assert asked(upstream, "p1", "p2", "p3") == [1, 1, 1]


def test_where_both_fail_the_error_is_told(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(status=500, body={}, delay=0.3))
    upstream.always("p2", Answer(status=503, body={}))
    assert door.chat(key).status_code == 502
    assert asked(upstream, "p1", "p2") == [1, 1]


def test_a_callers_error_ends_the_race(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(status=400, body={"error": {"message": "bad"}}, delay=0.3))
    upstream.always("p2", LATE)
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "bad")
    assert row_of(answer).cost_nano_usd is None
    until(lambda: upstream.hang_ups, "the loser's connection is closed", 1)


def test_max_attempts_bounds_races_too(door, upstream, gpt):
    key = gpt(max_attempts=1)
    upstream.always("p1", Answer(delay=0.3))
    assert door.chat(key).status_code == 200
    assert asked(upstream, "p1", "p2") == [1, 0]


def test_a_client_that_hangs_up_during_a_race_closes_both(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", LATE)
    upstream.always("p2", LATE)
    with pytest.raises(httpx.ReadTimeout):
        door.client.post(
            "/v1/chat/completions",
            content=ask("gpt"),
            headers={"authorization": f"Bearer {key}", "x-request-id": f"race-{door.name}"},
            timeout=0.5,
        )
    until(lambda: len(upstream.hang_ups) == 2, "both connections are closed", 1)
    row = until(lambda: RequestLog.objects.filter(request_id=f"race-{door.name}").first(), "its row")
    assert (row.outcome, row.attempts) == ("client_gone", 2)
    assert {result for _, result in results(row)} == {"cancelled"}


@pytest.mark.parametrize("shared", ["target", "provider"])
def test_holds_are_exact_after_races(door, upstream, gpt, shared):
    """One call at a time: a hold that leaks would refuse the next one."""
    team = make_team(parallel=1, budget_usd="1", budget_period="total")
    key = gpt(key={"team": team}, hedge_after_ms=30, **{shared: {"parallel": 1}})
    for _ in range(3):
        for slow, quick in (("p1", "p2"), ("p2", "p1")):
            upstream.always(slow, LATE)
            upstream.always(quick, Answer(delay=0.08))
            answer = door.chat(key)
            assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, quick)


def test_the_winning_stream_is_relayed_to_its_end(door, upstream, gpt):
    gate = threading.Event()
    key = gpt()
    upstream.always("p1", LATE)
    upstream.always("p2", Answer(chunks=events("a", "b", "c"), gate=gate))
    with door.stream(key) as answer:
        chunks = answer.iter_raw()
        next(chunks)
        until(lambda: upstream.hang_ups, "the loser is closed while the winner goes on", 1)
        gate.set()
        assert b"[DONE]" in b"".join(chunks)
