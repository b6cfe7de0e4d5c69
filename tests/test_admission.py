"""Limits and budgets: one suite over the counts in this process and those in Redis."""

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admission.base import Candidate, Demand
from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis import admission as redis_admission
from proxy.admission.redis.admission import RedisAdmission
from proxy.admission.redis.scripts import ADMIT, EPOCH, SEED, SETTLE, Script
from proxy.errors import LimitsUnavailable, RateLimited
from proxy.ids import uuid7
from routing.periods import bounds
from routing.table import Budget, LimitOwner, Limits
from tests.optional import PARTS

NOON = 2308824000.0  # 2043-03-01 12:00 UTC, a Sunday; later than the real time, at which keys expire
USD = 10**9
CLOCK = "{switchstand}:test-clock"


@dataclass
class Store:
    """One of the two, on a clock that tests turn."""

    redis: Any = None  # its client, or None
    now: float = NOON
    log: list[tuple[LimitOwner, float, int, Any]] = field(default_factory=list)
    admission: Any = None

    async def open(self) -> "Store":
        if self.redis is None:
            self.admission = MemoryAdmission(self.spent, clock=lambda: self.now)
        else:
            self.redis.flushdb()
            self.advance(0)
            url = f"redis://127.0.0.1:{self.redis.connection_pool.connection_kwargs['port']}/0"
            self.admission = RedisAdmission(url, self.spent, timeout=2, without="closed", lease=30)
            await self.admission.start()
        return self

    async def second(self) -> "Store":
        """A further process on the same counts."""
        other = Store(self.redis, self.now, self.log)
        url = f"redis://127.0.0.1:{self.redis.connection_pool.connection_kwargs['port']}/0"
        other.admission = RedisAdmission(url, self.spent, timeout=2, without="closed", lease=30)
        await other.admission.start()
        return other

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.redis is not None:
            self.redis.set(CLOCK, int(self.now * 1000))

    def spent(self, owner: LimitOwner, start: Any, end: Any, leave_out: Any = ()) -> int:
        return sum(
            cost
            for payer, at, cost, id in self.log
            if payer.kind == owner.kind
            and payer.id == owner.id
            and id not in leave_out
            and (start is None or start <= at < end)
        )

    async def admit(
        self, *shared: LimitOwner, candidates: Any = None, tokens: int = 10, cost: int = 0
    ) -> Any:
        candidates = [Candidate((), cost)] if candidates is None else candidates
        demand = Demand(uuid7(), tokens, self.now)
        # As callers do: the quick look, and the whole way where that tells nothing.
        quick = self.admission.at_once(shared, candidates, demand) if candidates else None
        return quick or await self.admission.admit(shared, candidates, demand)

    async def refused(self, *shared: LimitOwner, **asked: Any) -> RateLimited:
        with pytest.raises(RateLimited) as caught:
            await self.admit(*shared, **asked)
        return caught.value

    async def settled(self) -> None:
        """Waits until all that was settled counts."""
        if self.redis is not None:
            while len(self.admission._settlements):  # noqa: ASYNC110
                await asyncio.sleep(0.002)

    async def left(self, owner: LimitOwner) -> int:
        """Nano-USD that one more call could reserve, found by trying."""
        await self.settled()
        owner = LimitOwner(owner.kind, owner.id, owner.name, Limits(), owner.budget)
        low, high = 0, owner.budget.limit_nano + 1
        while high - low > 1:
            middle = (low + high) // 2
            try:
                grant = await self.admit(owner, cost=middle)
            except RateLimited:
                high = middle
            else:
                low = middle
                grant.settle(0, 0)
                await self.settled()
        return low

    async def close(self) -> None:
        await self.admission.aclose()


def on_test_clock(script: Script) -> Script:
    changed = object.__new__(Script)
    changed.text = script.text.replace(
        "local time = call('TIME')\n  return time[1] * 1000 + math.floor(time[2] / 1000)",
        f"return tonumber(call('GET', '{CLOCK}'))",
    )
    assert changed.text != script.text
    import hashlib

    changed.sha = hashlib.sha1(changed.text.encode()).hexdigest()
    return changed


@pytest.fixture(scope="module", autouse=True)
def test_clock():
    scripts = (ADMIT, SETTLE, SEED, EPOCH)
    before = [(script.text, script.sha) for script in scripts]
    for script in scripts:
        changed = on_test_clock(script)
        script.text, script.sha = changed.text, changed.sha
    young, redis_admission.YOUNG_SECONDS = redis_admission.YOUNG_SECONDS, 0.0
    yield
    redis_admission.YOUNG_SECONDS = young
    for script, (text, sha) in zip(scripts, before, strict=True):
        script.text, script.sha = text, sha


KINDS = [
    "memory",
    pytest.param("redis", marks=pytest.mark.skipif(PARTS["Redis"] is None, reason="Redis is not installed")),
]


@pytest.fixture(params=KINDS)
def client(request):
    return None if request.param == "memory" else request.getfixturevalue("redis_server").client


@pytest.fixture
async def store(client):
    opened = await Store(client).open()
    yield opened
    await opened.close()


def key(id: int = 1, *, budget: int | None = None, period: str = "total", zone: str = "UTC", **limits: int):
    found = None if budget is None else Budget(limit_nano=budget, period=period, time_zone=zone)
    return LimitOwner("key", id, f"key-{id}", Limits(**limits), found)


def target(id: int, *, cost: int | None = 0, budget: int | None = None, **limits: int) -> Candidate:
    found = None if budget is None else Budget(limit_nano=budget, period="total", time_zone="UTC")
    limited = budget is not None or limits
    return Candidate((LimitOwner("target", id, f"t{id}", Limits(**limits), found),) if limited else (), cost)


async def test_without_limits_nothing_is_counted(store):
    grant = await store.admit(candidates=[Candidate((), None)])
    assert (grant.candidate, grant.rate_limits) == (0, (None, None))
    if store.redis is not None:
        assert store.redis.keys("*:key:*") == []


async def test_requests_over_the_minutes_limit_are_refused_until_the_first_is_a_minute_old(store):
    for _ in range(3):
        (await store.admit(key(rpm=3))).settle(10, 0)
    error = await store.refused(key(rpm=3))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert "API key key-1 is at its limit of 3 requests per minute" in error.message
    assert 59.9 < error.retry_after <= 60.25
    assert error.rate_limits[0].remaining == 0
    store.advance(error.retry_after + 0.001)
    await store.admit(key(rpm=3))


async def test_the_rate_limit_state_is_what_is_left_after_this_request(store):
    requests, tokens = (await store.admit(key(rpm=5, tpm=100), tokens=30)).rate_limits
    assert (requests.limit, requests.remaining, tokens.limit, tokens.remaining) == (5, 4, 100, 70)
    assert 59.9 < requests.reset <= 60.25
    assert 59.9 < tokens.reset <= 60.25


async def test_reserved_tokens_become_the_real_ones(store):
    grant = await store.admit(key(tpm=100), tokens=90)
    assert (
        "100 tokens per minute (this request needs up to 20)"
        in (await store.refused(key(tpm=100), tokens=20)).message
    )
    grant.settle(15, None)
    await store.settled()
    await store.admit(key(tpm=100), tokens=85)
    await store.refused(key(tpm=100), tokens=1)


async def test_open_requests_are_limited_and_given_back_once(store):
    first, second = [await store.admit(key(parallel=2)) for _ in range(2)]
    error = await store.refused(key(parallel=2))
    assert "2 requests at the same time. It frees when one of them ends." in error.message
    first.settle(0, 0)
    first.settle(0, 0)
    await store.settled()
    await store.admit(key(parallel=2))
    await store.refused(key(parallel=2))
    second.settle(0, 0)


async def test_a_refused_request_counts_nowhere(store):
    team = LimitOwner("team", 9, "search", Limits(rpm=2))
    for _ in range(2):
        await store.admit(key(rpm=10), team)
    for _ in range(8):
        assert "Team search" in (await store.refused(key(rpm=10), team)).message
    grant = await store.admit(key(rpm=10))
    assert grant.rate_limits[0].remaining == 10 - 3


async def test_a_full_target_leaves_nothing_of_the_requests_it_kept_out(store):
    limited, full = key(rpm=5, tpm=100, parallel=2, budget=100), [target(1, rpm=1)]
    (await store.admit(limited, candidates=full, tokens=10)).settle(10, 0)
    for _ in range(8):
        await store.refused(limited, candidates=full, tokens=10)
    await store.settled()
    grant = await store.admit(limited, candidates=[target(2, cost=100, budget=100)], tokens=90)
    assert [state.remaining for state in grant.rate_limits] == [3, 0]
    assert grant.reserved_nano == 100


async def test_a_budget_is_reserved_before_and_settled_after(store):
    limited = key(budget=USD)
    grants = [await store.admit(limited, cost=USD // 4) for _ in range(4)]
    error = await store.refused(limited, cost=1)
    assert (error.code, error.retry_after) == ("insufficient_quota", None)
    assert "has spent its budget of 1.00 USD in total. It does not reset." in error.message
    grants[0].settle(10, 100)
    grants[1].settle(0, 0)
    grants[2].settle(None, None)  # what it cost is not known: what was reserved counts
    await store.settled()
    assert await store.left(limited) == USD - 100 - USD // 4 - USD // 4


async def test_a_request_that_may_exceed_the_budget_is_told_what_is_left(store):
    (await store.admit(key(budget=USD), cost=USD // 2)).settle(1, USD // 2)
    await store.settled()
    error = await store.refused(key(budget=USD), cost=USD)
    assert "has 0.50 USD left of its budget of 1.00 USD in total" in error.message


async def test_what_costs_nothing_goes_on_where_a_budget_is_spent(store):
    (await store.admit(key(budget=5), cost=5)).settle(1, 5)
    await store.settled()
    await store.refused(key(budget=5), cost=1)
    await store.admit(key(budget=5), cost=0)


async def test_raising_the_limit_leaves_what_was_spent(store):
    (await store.admit(key(budget=100), cost=100)).settle(1, 100)
    await store.settled()
    assert await store.left(key(budget=150)) == 50


async def test_a_budget_starts_with_what_the_log_says(store):
    store.log.append((key(), NOON - 5, 30, uuid7()))
    assert await store.left(key(budget=100)) == 70


async def test_a_budget_counts_from_nothing_in_each_period_of_its_time_zone(store):
    def limited(period):
        return key(budget=100, period=period, zone="Pacific/Auckland")  # it is Monday 01:00 there

    store.log += [(key(), NOON - 3700, 20, uuid7()), (key(), NOON - 50, 3, uuid7())]
    for period, left in (("day", 97), ("week", 97), ("month", 77)):
        assert await store.left(limited(period)) == left, period
    error = await store.refused(limited("day"), cost=98)
    assert error.retry_after == 23 * 3600
    store.advance(23 * 3600)
    assert await store.left(limited("day")) == 100
    assert await store.left(limited("week")) == 97


async def test_a_call_is_settled_in_the_period_in_which_it_came(store):
    limited = key(budget=100, period="day")
    store.advance(12 * 3600 - 1)
    grant = await store.admit(limited, cost=60)
    store.advance(2)
    assert await store.left(limited) == 100
    grant.settle(1, 60)
    assert await store.left(limited) == 100


async def test_spending_that_can_not_be_read_is_never_taken_for_none(store):
    def broken(*_: Any) -> int:
        raise OSError("the database is away")

    readable, store.admission._seeding._spent = store.admission._seeding._spent, broken
    with pytest.raises(LimitsUnavailable) as caught:
        await store.admit(key(budget=100), cost=1)
    assert caught.value.status == 503
    store.admission._seeding._spent = readable
    await store.admit(key(budget=100), cost=1)


async def test_a_target_without_a_price_is_passed_over_where_a_budget_applies(store):
    grant = await store.admit(key(budget=100), candidates=[target(1, cost=None), target(2, cost=5)])
    assert (grant.candidate, [hit.limit for hit in grant.skipped]) == (1, ["price"])
    error = await store.refused(key(budget=100), candidates=[target(1, cost=None)])
    assert (error.code, error.retry_after) == ("price_unknown", None)
    assert "the price of what would serve this request is unknown" in error.message


async def test_the_first_target_with_room_is_taken(store):
    candidates = [target(1, rpm=1), target(2, parallel=1), target(3, tpm=15), target(4, cost=7, budget=10)]
    taken = [(await store.admit(candidates=candidates)).candidate for _ in range(4)]
    assert taken == [0, 1, 2, 3]
    grant_error = await store.refused(candidates=candidates)
    assert "Target t2" in grant_error.message  # it frees first: when its open call ends
    grant = await store.admit(candidates=[*candidates, target(5)])
    assert grant.candidate == 4
    assert [(hit.owner.name, hit.limit) for hit in grant.skipped] == [
        ("t1", "rpm"),
        ("t2", "parallel"),
        ("t3", "tpm"),
        ("t4", "budget"),
    ]


async def test_a_shared_budget_that_is_short_leaves_the_cheaper_target(store):
    grant = await store.admit(key(budget=100), candidates=[target(1, cost=200), target(2, cost=50)])
    assert (grant.candidate, grant.reserved_nano) == (1, 50)
    assert await store.left(key(budget=100)) == 50


async def test_moving_gives_back_the_old_target_and_takes_the_next(store):
    candidates = [
        target(1, cost=10, parallel=1, budget=10, tpm=10),
        target(2, cost=60, rpm=1, budget=100),
        target(3, cost=5),
    ]
    limited = key(budget=100, rpm=5)
    grant = await store.admit(limited, candidates=candidates)
    await store.refused(candidates=candidates[:1])
    await grant.move(1, 3)
    assert (grant.candidate, grant.reserved_nano) == (1, 60)
    other = await store.admit(limited, candidates=candidates[:1])  # all of target 1 is free again
    assert other.candidate == 0
    assert await store.left(limited) == 30
    with pytest.raises(RateLimited):
        await grant.move(1, 2)  # the same again is a further request
    await grant.move(1, 3)
    assert (grant.candidate, grant.reserved_nano) == (2, 5)
    grant.settle(4, 4)
    other.settle(0, 0)
    assert await store.left(limited) == 96
    assert (await store.admit(limited, candidates=[target(3)])).rate_limits[
        0
    ].remaining == 2  # a move is no new request


async def test_a_hundred_callers_at_once_get_no_more_than_the_limit(store):
    async def one() -> bool:
        try:
            await store.admit(key(rpm=40, budget=60), cost=2)
        except RateLimited:
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(100)))) == 30


moves = st.lists(st.sampled_from(["move", "again"]), max_size=3)
endings = st.sampled_from(["answered", "failed", "abandoned", "hung up while it waited"])
asked = st.tuples(st.integers(1, 40), st.integers(0, 60), st.integers(0, 80), moves, endings)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=st.lists(asked, max_size=12))
def test_holds_never_leak_and_budgets_are_exact(client, calls):
    """After any endings nothing is held, and what is left is the limit less the sum of the costs."""

    async def run() -> None:
        store = await Store(client).open()
        shared = [key(parallel=3, tpm=10_000, budget=300), LimitOwner("team", 1, "t", Limits(parallel=5))]
        candidates = [target(1, cost=30, parallel=2, budget=200), target(2, cost=20, parallel=2)]
        spent, open_calls = 0, []

        async def end(grant: Any, tokens: int, cost: int, ending: str) -> int:
            if ending == "answered":
                cost = min(cost, grant.reserved_nano)
                grant.settle(tokens, cost)
                return cost
            if ending == "abandoned":
                reserved = grant.reserved_nano
                grant.settle(None, None)
                return reserved
            grant.settle(0, 0)
            return 0

        for tokens, cost, ms, moving, ending in calls:
            store.advance(ms / 1000)
            if ending == "hung up while it waited":
                task = asyncio.ensure_future(store.admit(*shared, candidates=candidates, tokens=tokens))
                await asyncio.sleep(0)
                if task.done():
                    with contextlib.suppress(RateLimited):
                        (await task).settle(0, 0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                continue
            try:
                grant = await store.admit(*shared, candidates=candidates, tokens=tokens)
            except RateLimited:
                continue
            open_calls.append((grant, tokens, cost, ending))
            for step in moving:
                with contextlib.suppress(RateLimited):
                    await grant.move(grant.candidate, 2) if step == "again" else await grant.move(1, 2)
            if len(open_calls) > 2:
                spent += await end(*open_calls.pop(0))
                await store.settled()
        for left in open_calls:
            spent += await end(*left)
        assert await store.left(LimitOwner("key", 1, "key-1", Limits(), shared[0].budget)) == 300 - spent
        for owner in (
            LimitOwner("key", 1, "", Limits(parallel=1)),
            LimitOwner("team", 1, "", Limits(parallel=1)),
        ):
            (await store.admit(owner)).settle(0, 0)
        for candidate in (target(1, parallel=1), target(2, parallel=1)):
            (await store.admit(candidates=[candidate])).settle(0, 0)
        await store.close()

    asyncio.run(run())


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 25), st.integers(1, 60), st.integers(0, 60)), min_size=5, max_size=50
    ),
    rpm=st.integers(1, 6),
)
def test_no_minute_ever_has_more_than_the_limit(client, steps, rpm):
    async def run() -> None:
        store = await Store(client).open()
        admitted: deque[tuple[float, int]] = deque()
        for wait, tokens, real in steps:
            store.advance(wait)
            try:
                grant = await store.admit(key(rpm=rpm, tpm=100), tokens=tokens)
            except RateLimited:
                continue
            used = min(real, tokens)
            grant.settle(used, 0)
            await store.settled()
            admitted.append((store.now, used))
            recent = [count for at, count in admitted if at > store.now - 60]
            assert len(recent) <= rpm
            assert sum(recent) - used + tokens <= 100
        # And it is not stricter than it must be: after a quiet minute all of it is free.
        store.advance(60.26)
        for _ in range(rpm):
            await store.admit(key(rpm=rpm, tpm=100), tokens=1)
        await store.close()

    asyncio.run(run())


def test_periods_follow_the_clocks_of_their_time_zone():
    day = bounds("day", "Europe/Berlin", 1_774_746_000)  # 2026-03-29, when clocks go forward
    assert day[1] - day[0] == 23 * 3600
    skipped = bounds("day", "America/Santiago", 1_757_300_000)  # 2025-09-07 begins at 01:00
    assert bounds("day", "America/Santiago", skipped[0])[0] == skipped[0]
    assert bounds("day", "America/Santiago", skipped[0] - 1)[1] == skipped[0]
    month = bounds("month", "UTC", NOON)
    assert month == (NOON - 12 * 3600, NOON + 30.5 * 24 * 3600)
    assert time.gmtime(bounds("week", "UTC", NOON)[0]).tm_wday == 0
