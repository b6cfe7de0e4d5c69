"""In which order targets are tried: every strategy, tags and canaries, with the dice in our hands."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as some

from proxy.breaker.state import TargetState
from routing.strategies import STRATEGIES, Pick, Strategy, in_levels
from routing.table import Connection, Price, ProviderEntry, TargetEntry, rank_of
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.upstream import Answer

PROVIDER = ProviderEntry(
    id=1,
    slug="p",
    dialect="openai",
    base_url="http://p",
    credential="",
    connection=Connection(
        connect_timeout=1, read_timeout=1, max_connections=1, queue_timeout=1, keep_alive=1
    ),
    retries=0,
    retry_delay=0,
    allow_caller_key=False,
    unhealthy=False,
    refuse_when_unhealthy=False,
)


def target(number, *, weight=1, priority=1, price=None):
    return TargetEntry(
        id=number,
        provider=PROVIDER,
        upstream_model=f"m{number}",
        weight=weight,
        priority=priority,
        rank=rank_of(priority, weight),
        price=price,
    )


def sorted_like_the_table(targets):
    return sorted(targets, key=lambda one: (one.rank, -one.weight, one.id))


@dataclass
class Loads:
    """Live states by target id; `now` stands in for the clock."""

    states: dict
    now: float = 1000.0

    def of(self, target_id):
        return self.states.setdefault(target_id, TargetState())


class Rig:
    """One strategy with its dice, its loads and a session."""

    def __init__(self, name, seed=1):
        self.strategy = STRATEGIES[name]()
        self.loads = Loads({})
        self.dice = random.Random(seed)

    def order(self, targets, *, stream=False, session="s", dry=False):
        pick = Pick(stream, lambda: session, self.loads, self.dice, self.loads.now, dry)
        return [one.id for one in in_levels(sorted_like_the_table(targets), self.strategy, pick)]

    def first(self, targets, **options):
        return self.order(targets, **options)[0]


some_targets = some.lists(some.tuples(some.integers(0, 5), some.integers(0, 3)), min_size=1, max_size=7).map(
    lambda rows: [target(n, weight=w, priority=p) for n, (w, p) in enumerate(rows, 1)]
)


@given(targets=some_targets, name=some.sampled_from(sorted(STRATEGIES)), seed=some.integers(0, 99))
def test_every_strategy_orders_all_targets_and_keeps_the_levels(targets, name, seed):
    rig = Rig(name, seed)
    for session in ("a", "b"):
        order = rig.order(targets, session=session)
        assert sorted(order) == sorted(one.id for one in targets)
        ranks = [next(one.rank for one in targets if one.id == number) for number in order]
        assert ranks == sorted(ranks)


def test_every_strategy_says_what_it_does():
    assert set(STRATEGIES) >= {
        "least_busy",
        "lowest_cost",
        "lowest_latency",
        "ordered",
        "sticky",
        "weighted",
    }
    for kind in STRATEGIES.values():
        assert issubclass(kind, Strategy)
        assert ":" in kind.label
        assert kind.help.endswith(".")


def test_ordered_always_starts_with_the_first():
    targets = [target(1, priority=2), target(2, weight=1), target(3, weight=9), target(4, weight=0)]
    rig = Rig("ordered")
    assert {tuple(rig.order(targets)) for _ in range(50)} == {(3, 2, 4, 1)}


@pytest.mark.parametrize("weights", [(1, 1), (7, 3), (1, 9, 90), (5, 3, 2), (100, 50, 25, 25)])
def test_weighted_splits_within_two_percent_over_ten_thousand_picks(weights):
    targets = [target(number, weight=weight) for number, weight in enumerate(weights, 1)]
    rig = Rig("weighted")
    counts = Counter(rig.first(targets) for _ in range(10_000))
    for number, weight in enumerate(weights, 1):
        assert abs(counts[number] / 10_000 - weight / sum(weights)) < 0.02


def test_weighted_splits_a_failed_targets_share_by_weight_too():
    targets = [target(1, weight=10), target(2, weight=3), target(3, weight=1)]
    rig = Rig("weighted")
    orders = [rig.order(targets) for _ in range(10_000)]
    seconds = Counter(order[1] for order in orders if order[0] == 1)
    assert abs(seconds[2] / sum(seconds.values()) - 0.75) < 0.02


def test_a_weight_of_zero_is_tried_only_after_the_others():
    targets = [target(1, weight=0), target(2), target(3)]
    for name in STRATEGIES:
        assert Rig(name).order(targets)[2] == 1


def test_least_busy_fills_targets_in_proportion_to_their_weights():
    targets = [target(1, weight=3), target(2, weight=1)]
    rig = Rig("least_busy")
    for _ in range(40):
        rig.loads.of(rig.first(targets)).in_flight += 1
    assert (rig.loads.of(1).in_flight, rig.loads.of(2).in_flight) == (30, 10)


def test_least_busy_shares_idle_targets_by_chance():
    rig = Rig("least_busy")
    counts = Counter(rig.first([target(1), target(2)]) for _ in range(1000))
    assert min(counts.values()) > 400


class Latencies:
    """Runs requests one after the other against targets that take a given time."""

    def __init__(self, seed=1):
        self.rig = Rig("lowest_latency", seed)
        self.targets = [target(1), target(2), target(3)]

    def run(self, milliseconds, requests, *, stream=False):
        chosen = []
        for _ in range(requests):
            first = self.rig.first(self.targets, stream=stream)
            self.rig.loads.now += 0.01
            self.rig.loads.of(first).measured(milliseconds[first], self.rig.loads.now, stream=stream)
            chosen.append(first)
        return chosen


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_lowest_latency_finds_the_fast_one_within_50_requests_and_notices_when_it_slows(seed, stream):
    latencies = Latencies(seed)
    latencies.run({1: 300, 2: 40, 3: 500}, 50, stream=stream)
    assert Counter(latencies.run({1: 300, 2: 40, 3: 500}, 100, stream=stream))[2] >= 85
    latencies.run({1: 300, 2: 2000, 3: 500}, 50, stream=stream)
    assert Counter(latencies.run({1: 300, 2: 2000, 3: 500}, 100, stream=stream))[1] >= 85


@pytest.mark.parametrize("seed", range(5))
def test_lowest_latency_notices_a_target_that_has_recovered(seed):
    latencies = Latencies(seed)
    latencies.run({1: 300, 2: 4000, 3: 500}, 100)
    latencies.run({1: 300, 2: 20, 3: 500}, 600)
    assert Counter(latencies.run({1: 300, 2: 20, 3: 500}, 100))[2] >= 85


def test_lowest_latency_sends_one_request_to_an_unmeasured_target_not_a_herd():
    rig = Rig("lowest_latency")
    targets = [target(1), target(2)]
    rig.loads.of(1).measured(100, 1.0, stream=False)
    assert rig.first(targets) == 2
    rig.loads.of(2).in_flight = 1
    assert Counter(rig.first(targets) for _ in range(200))[1] >= 175


def test_lowest_latency_explores_a_few_times_a_second_however_many_requests_come():
    rig = Rig("lowest_latency")
    targets = [target(1), target(2)]
    for number, total in ((1, 10), (2, 500)):
        rig.loads.of(number).measured(total, 1.0, stream=False)
    explored = 0
    for _ in range(10_000):  # in 1 s
        rig.loads.now += 0.0001
        explored += rig.first(targets) == 2
    assert 2 <= explored <= 30


def test_lowest_latency_notices_within_milliseconds_under_load():
    rig = Rig("lowest_latency")
    targets = [target(1), target(2)]
    for number, total in ((1, 10), (2, 500)):
        rig.loads.of(number).measured(total, rig.loads.now, stream=False)
    rig.first(targets)
    for _ in range(20):
        rig.loads.of(1).measured(5000, rig.loads.now, stream=False)
    rig.loads.now += 0.006
    assert Counter(rig.first(targets) for _ in range(100))[2] >= 90


def test_lowest_latency_keeps_streams_and_whole_answers_apart():
    rig = Rig("lowest_latency")
    targets = [target(1), target(2)]
    for number, ttft, total in ((1, 10, 900), (2, 500, 100)):
        rig.loads.of(number).measured(ttft, 1.0, stream=True)
        rig.loads.of(number).measured(total, 1.0, stream=False)
    assert Counter(rig.first(targets, stream=True) for _ in range(100)).most_common(1)[0][0] == 1
    assert Counter(rig.first(targets, stream=False) for _ in range(100)).most_common(1)[0][0] == 2


def test_lowest_cost_takes_the_cheapest_and_the_unknown_last():
    targets = [
        target(1, price=Price(input=3_000_000_000, output=15_000_000_000)),
        target(2, weight=100),
        target(3, price=Price(input=150_000_000, output=600_000_000)),
        target(4, price=Price(input=150_000_000, output=700_000_000)),
    ]
    rig = Rig("lowest_cost")
    assert {tuple(rig.order(targets)) for _ in range(50)} == {(3, 4, 1, 2)}


def test_lowest_cost_shares_equal_prices_by_chance():
    price = Price(input=1, output=1)
    rig = Rig("lowest_cost")
    counts = Counter(rig.first([target(1, price=price), target(2, price=price)]) for _ in range(1000))
    assert min(counts.values()) > 400


SESSIONS = [f"session-{number}" for number in range(5000)]


def homes(rig, targets):
    return {session: rig.first(targets, session=session) for session in SESSIONS}


def test_sticky_spreads_sessions_by_weight_and_keeps_each_on_its_target():
    rig = Rig("sticky")
    targets = [target(1, weight=3), target(2, weight=1)]
    first = homes(rig, targets)
    assert homes(rig, targets) == first
    assert abs(Counter(first.values())[1] / len(SESSIONS) - 0.75) < 0.03


def test_sticky_is_the_same_in_another_process():
    targets = [target(1), target(2), target(3)]
    assert homes(Rig("sticky", seed=1), targets) == homes(Rig("sticky", seed=2), targets)


@pytest.mark.parametrize("before", [1, 2, 4])
def test_sticky_keeps_its_sessions_when_another_target_joins(before):
    rig = Rig("sticky")
    targets = [target(number) for number in range(1, before + 1)]
    first = homes(rig, targets)
    joined = homes(rig, [*targets, target(before + 1)])
    stayed = sum(joined[session] == home for session, home in first.items())
    assert stayed / len(SESSIONS) >= 0.99


def test_sticky_shares_new_sessions_with_a_target_that_joined():
    rig = Rig("sticky")
    homes(rig, [target(1)])
    both = [target(1), target(2)]
    fresh = Counter(rig.first(both, session=f"new-{number}") for number in range(2000))
    assert abs(fresh[2] / 2000 - 0.5) < 0.05


def test_sticky_moves_only_the_sessions_of_a_target_that_is_down_and_they_stay_where_they_went():
    rig = Rig("sticky")
    targets = [target(1), target(2), target(3)]
    first = homes(rig, targets)
    without = homes(rig, targets[1:])
    assert all(without[session] == home for session, home in first.items() if home != 1)
    assert homes(rig, targets) == without


def test_sticky_forgets_a_session_that_was_not_seen_for_an_hour():
    rig = Rig("sticky")
    homes(rig, [target(1)])
    rig.loads.now += 3601
    assert Counter(homes(rig, [target(1), target(2)]).values())[2] > 2000


def test_sticky_remembers_a_bounded_number_of_sessions(monkeypatch):
    monkeypatch.setattr("routing.strategies.sticky.MOST_SESSIONS", 100)
    rig = Rig("sticky")
    homes(rig, [target(1), target(2)])
    assert len(rig.strategy._homes) == 100


def test_sticky_leaves_no_trace_of_an_explanation():
    rig = Rig("sticky")
    rig.order([target(1), target(2)], dry=True)
    assert not rig.strategy._homes


# Through both doors


def two_targets(upstream, route, **second):
    for slug, more in (("a", {}), ("b", second)):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=0)
        make_target(route=route, provider=provider, upstream_model=slug, **more)


def counts(upstream):
    return len(upstream.calls("a")), len(upstream.calls("b"))


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_serves_and_falls_over(door, upstream, published, name):
    two_targets(upstream, make_route(name="gpt", strategy=name))
    _, key = make_key()
    published()
    upstream.always("a", Answer(status=500))
    assert {door.chat(key).status_code for _ in range(6)} == {200}


@pytest.mark.parametrize(
    "sent",
    [
        lambda number: {"headers": {"x-session-id": f"s{number}"}},
        lambda number: {"user": f"u{number}"},
    ],
)
def test_sticky_goes_by_the_session_header_and_by_the_user(door, upstream, published, sent):
    two_targets(upstream, make_route(name="gpt", strategy="sticky"))
    _, key = make_key()
    published()
    served = {}
    for _ in range(3):
        for number in range(12):
            slug = door.chat(key, **sent(number)).headers["x-proxy-provider"]
            assert served.setdefault(number, slug) == slug
    assert set(served.values()) == {"a", "b"}


def test_sticky_without_a_session_goes_by_the_key(door, upstream, published):
    two_targets(upstream, make_route(name="gpt", strategy="sticky"))
    keys = [make_key()[1] for _ in range(12)]
    published()
    served = [{door.chat(key).headers["x-proxy-provider"] for _ in range(3)} for key in keys]
    assert {len(slugs) for slugs in served} == {1}
    assert set.union(*served) == {"a", "b"}


def test_lowest_latency_finds_the_fast_provider(door, upstream, published):
    two_targets(upstream, make_route(name="gpt", strategy="lowest_latency"))
    _, key = make_key()
    published()
    upstream.always("a", Answer(delay=0.08))
    for _ in range(50):
        door.chat(key)
    assert len(upstream.calls("b")) >= 40


def test_tags_open_a_target_to_keys_teams_and_requests_that_have_one(door, upstream, published):
    two_targets(upstream, make_route(name="gpt"), tags=["premium", "batch"], priority=9)
    _, plain = make_key()
    _, tagged = make_key(tags=["premium"])
    _, of_team = make_key(team=make_team(tags=["premium"]))
    published()

    def served(key, **headers):
        return door.chat(key, headers=headers).headers["x-proxy-provider"]

    assert {served(plain) for _ in range(5)} == {"a"}
    assert served(plain, **{"x-litellm-tags": "other"}) == "a"
    # A matching target comes before those without tags, whatever its priority.
    assert {served(tagged), served(of_team), served(plain, **{"x-litellm-tags": "x, batch"})} == {"b"}
    upstream.always("b", Answer(status=500))
    assert served(tagged) == "a"


def test_a_request_without_any_of_the_tags_is_refused(door, upstream, published):
    provider = make_provider(base_url=upstream.url("a"))
    make_target(route=make_route(name="gpt"), provider=provider, tags=["premium"])
    _, key = make_key()
    published()
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["gateway_code"]) == (403, "ACCESS_FORBIDDEN")
    assert "x-litellm-tags" in answer.json()["error"]["message"]
    assert door.chat(key, headers={"x-litellm-tags": "premium"}).status_code == 200


def test_a_canary_gets_its_share_and_the_others_only_fall_back_to_it(door, upstream, published):
    two_targets(upstream, make_route(name="gpt"), canary_percent=25, weight=1000)
    _, key = make_key()
    published()
    for _ in range(200):
        assert door.chat(key).status_code == 200
    assert 25 <= len(upstream.calls("b")) <= 80  # 50 expected, 4 standard deviations around
    upstream.always("a", Answer(status=500))
    assert {door.chat(key).status_code for _ in range(8)} == {200}


def test_a_failing_canary_costs_no_request(door, upstream, published):
    two_targets(upstream, make_route(name="gpt"), canary_percent=100)
    _, key = make_key()
    published()
    upstream.always("b", Answer(status=500))
    assert {door.chat(key).headers["x-proxy-provider"] for _ in range(5)} == {"a"}
    assert upstream.calls("b")


def test_a_canary_of_a_sticky_route_keeps_its_sessions(door, upstream, published):
    two_targets(upstream, make_route(name="gpt", strategy="sticky"), canary_percent=40)
    _, key = make_key()
    published()
    served = {}
    for _ in range(3):
        for number in range(15):
            slug = door.chat(key, user=f"u{number}").headers["x-proxy-provider"]
            assert served.setdefault(number, slug) == slug
    assert set(served.values()) == {"a", "b"}
