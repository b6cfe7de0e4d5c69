"""How 10,000 requests at 64 connections are split, as the providers and their callers see it."""

from collections import Counter

import pytest

from tests.factories import make_key, make_provider, make_route, make_target
from tests.flood import chat, flood

REQUESTS = 10_000
BOUND = 0.02  # of all requests; four standard deviations and more at these shares


@pytest.fixture
def served(live, upstream, published):
    """Makes a route over providers of these weights, a key for it; (the route, the key)."""

    def make(strategy, **weights):
        route = make_route(name="gpt", strategy=strategy)
        for slug, weight in weights.items():
            join(route, upstream, slug, weight)
        _, key = make_key()
        published()
        return route, key

    return make


def join(route, upstream, slug, weight=1):
    provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=0)
    make_target(route=route, provider=provider, weight=weight)


@pytest.mark.parametrize("weights", [{"a": 7, "b": 2, "c": 1}, {"a": 3, "b": 1}], ids=["7:2:1", "3:1"])
def test_a_weighted_split_keeps_its_shares_within_two_percent(live, upstream, served, weights):
    _, key = served("weighted", **weights)
    told = flood(live.port, [chat(key)] * REQUESTS)
    assert {answer.status for answer in told} == {200}
    by_answer = Counter(answer.provider for answer in told)
    by_provider = {slug: len(upstream.calls(slug)) for slug in weights}
    assert by_answer == by_provider, "each was asked once, and the header says by whom it was served"
    for slug, weight in weights.items():
        share = by_provider[slug] / REQUESTS
        assert abs(share - weight / sum(weights.values())) < BOUND, by_provider


def test_sticky_sessions_stay_where_they_are_when_another_target_joins(live, upstream, served, published):
    """5,000 sessions before and after; those that begin afterwards share all three targets."""
    route, key = served("sticky", a=1, b=1)
    sessions = [chat(key, x_session_id=f"session-{number}") for number in range(REQUESTS // 2)]
    before = flood(live.port, sessions)
    assert {answer.status for answer in before} == {200}
    shares = Counter(answer.provider for answer in before)
    assert abs(shares["a"] / len(sessions) - 0.5) < 2 * BOUND

    join(route, upstream, "late")
    published()
    after = flood(live.port, sessions)
    assert {answer.status for answer in after} == {200}
    stayed = sum(old.provider == new.provider for old, new in zip(before, after, strict=True))
    assert stayed / len(sessions) >= 0.99

    fresh = flood(live.port, (chat(key, x_session_id=f"new-{number}") for number in range(2000)))
    shares = Counter(answer.provider for answer in fresh)
    assert {answer.status for answer in fresh} == {200}
    assert all(abs(shares[slug] / len(fresh) - 1 / 3) < 3 * BOUND for slug in ("a", "b", "late")), shares
