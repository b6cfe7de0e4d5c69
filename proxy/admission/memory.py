"""Limits counted in this process: for one web process without Redis."""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from proxy.admission.base import (
    NEVER,
    NO_RATE_LIMITS,
    Candidate,
    Demand,
    FreeGrant,
    Grant,
    LimitHit,
    RateLimitStates,
    Spent,
    rate_limited_owner,
)
from proxy.admission.refusals import refused
from proxy.admission.seeding import Seeding
from proxy.admission.window import Bucket, SlidingWindow
from routing.periods import Periods
from routing.table import Budget, LimitOwner

FORGET_AFTER = 4096  # owners kept before idle ones are dropped


class _Spend:
    """Nano-USD of one owner in one period: from `since` to before `until`, in Unix seconds."""

    __slots__ = ("calls", "reserved", "since", "spent", "until")

    def __init__(self, start: float | None, end: float | None) -> None:
        self.since = -math.inf if start is None else start
        self.until = math.inf if end is None else end
        self.spent = 0
        self.reserved = 0
        self.calls: set[str] = set()  # that are open


NOTHING_ASKED: tuple[Budget | None, _Spend] = (None, _Spend(None, None))


class _Counts:
    __slots__ = ("latest", "open", "recounting", "spends", "window")

    def __init__(self) -> None:
        self.window = SlidingWindow()
        self.open = 0
        self.spends: dict[float | None, _Spend] = {}  # by the start of the period
        self.latest: tuple[Budget | None, _Spend] = NOTHING_ASKED  # the budget asked for last, and its spend
        self.recounting: dict[float | None, tuple[_Spend, frozenset[str]]] = {}  # and the calls open then

    def full(self, owner: LimitOwner, tokens: int, now: float) -> LimitHit | None:
        """Which of the owner's rates has no room for one request more."""
        limits, window = owner.limits, self.window
        if limits.parallel is not None and self.open >= limits.parallel:
            return LimitHit(owner, "parallel")
        if limits.rpm is not None and (wait := window.wait_for_request(limits.rpm, now)):
            return LimitHit(owner, "rpm", wait)
        if limits.tpm is not None and (wait := window.wait_for_tokens(tokens, limits.tpm, now)):
            return LimitHit(owner, "tpm", wait)
        return None


class _Hold(msgspec.Struct):
    """What one call holds of one owner; nothing before take()."""

    owner: LimitOwner
    counts: _Counts
    spend: _Spend | None = None
    bucket: Bucket | None = None
    cost: int = 0  # nano-USD held against the budget

    def take(self, demand: Demand, cost: int, now: float) -> None:
        counts, spend = self.counts, self.spend
        counts.open += 1
        if self.owner.rated:
            self.bucket = counts.window.add(1, demand.tokens, now)
        if spend is not None:
            spend.calls.add(demand.id)
            spend.reserved += cost
            self.cost = cost

    def take_cost(self, cost: int) -> None:
        if self.spend is not None:
            self.spend.reserved += cost - self.cost
            self.cost = cost


def _let_go(holds: list[_Hold], demand: Demand, tokens: int | None, cost: int | None, now: float) -> None:
    """`tokens` and `cost` are what came of it; None: not known, so what was held counts."""
    for hold in holds:
        counts, bucket, spend = hold.counts, hold.bucket, hold.spend
        counts.open -= 1
        if bucket is not None and tokens is not None:
            counts.window.correct(bucket, tokens - demand.tokens, now)
        if spend is not None:
            spend.calls.discard(demand.id)
            spend.reserved -= hold.cost
            spend.spent += hold.cost if cost is None else cost


def _take_back(holds: list[_Hold], demand: Demand, now: float) -> None:
    """As if they had never been held: an owner behind them has no room, or must be looked at closer."""
    _let_go(holds, demand, 0, 0, now)
    for hold in holds:
        if hold.owner.rated:
            hold.counts.window.add(-1, 0, now)


class MemoryGrant(msgspec.Struct):
    admission: "MemoryAdmission"
    shared: tuple[LimitOwner, ...]
    candidates: Sequence[Candidate]
    demand: Demand
    holds: list[_Hold] = []  # of the shared limits, then of the candidate's own
    own_from: int = 0  # where in `holds` these begin
    reserved_nano: int | None = None
    rate_limits: RateLimitStates = NO_RATE_LIMITS
    candidate: int = 0
    skipped: tuple[LimitHit, ...] = ()

    async def move(self, first: int, last: int) -> None:
        _let_go(self.holds[self.own_from :], self.demand, 0, 0, self.admission.clock())
        del self.holds[self.own_from :]
        await self.admission.take(self, range(first, last))

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        _let_go(self.holds, self.demand, tokens, cost_nano, self.admission.clock())
        self.holds.clear()

    def hold(self, index: int, shared: list[_Hold], own: list[_Hold], now: float) -> None:
        """Take a candidate that was found to have room."""
        candidate, demand = self.candidates[index], self.demand
        cost = candidate.cost_nano or 0
        if shared is self.holds:
            for hold in shared:
                hold.take_cost(cost)
        else:
            for hold in shared:
                hold.take(demand, cost, now)
            self.holds, self.own_from = shared, len(shared)
            self.rate_limits = _rate_limits(shared, now)
        for hold in own:
            hold.take(demand, cost, now)
        self.holds += own
        self.candidate = index
        budgeted = any(hold.spend is not None for hold in self.holds)
        self.reserved_nano = candidate.cost_nano if budgeted else None


def _rate_limits(shared: list[_Hold], now: float) -> RateLimitStates:
    for hold in shared:
        if hold.owner.rated:
            return hold.counts.window.rate_limits(hold.owner.limits, now)
    return NO_RATE_LIMITS


class MemoryAdmission:
    """Runs on one event loop: between check and count nothing else runs, so the two are one step."""

    def __init__(self, spent: Spent, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._periods = Periods()
        self._seeding = Seeding(spent)
        self._owners: dict[tuple[str, int], _Counts] = {}  # by LimitOwner.identity
        self._forget_at = FORGET_AFTER
        self.recounted = 0

    def recount(self, number: int) -> None:
        """Takes the counters away; the next call of an owner puts its own back, with what the log says.

        What calls that are open now settle meanwhile is counted from zero, and left out of the log's sum.
        """
        self.recounted = number
        for counts in self._owners.values():
            # An owner that is being recounted has begun no call since: what is noted of it holds.
            for start, spend in counts.spends.items():
                counts.recounting[start] = spend, frozenset(spend.calls)
                spend.spent = 0
            counts.spends = {}
            counts.latest = NOTHING_ASKED

    def at_once(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> MemoryGrant | None:
        """The usual case: all spending is known, the first candidate has room by the totals as they are.

        What has left a window since they were made would only make more room.
        """
        tokens, cost, now = demand.tokens, candidates[0].cost_nano, self.clock()
        known, holds, reserved = self._owners.get, [], None
        for owner in shared + candidates[0].limit_owners:
            counts, budget = known(owner.identity), owner.budget
            bucket, spend, held = None, None, 0
            if counts is None:
                break
            window = counts.window
            rpm, tpm, parallel = owner.ceilings
            if window.requests >= rpm or window.tokens + tokens > tpm or counts.open >= parallel:
                break
            if budget is not None:
                asked, spend = counts.latest
                if asked is not budget or not spend.since <= demand.at < spend.until:
                    break
                if cost is None or cost > budget.limit_nano - spend.spent - spend.reserved:
                    break
                spend.calls.add(demand.id)
                spend.reserved += cost
                reserved = held = cost
            counts.open += 1
            if owner.rated:
                bucket = window.add(1, tokens, now)
            holds.append(_Hold(owner, counts, spend, bucket, held))
        else:
            own_from = len(shared)
            rate_limits = _rate_limits(holds[:own_from], now)
            return MemoryGrant(self, shared, candidates, demand, holds, own_from, reserved, rate_limits)
        _take_back(holds, demand, now)
        return None

    async def admit(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> Grant:
        if not shared and not any(candidate.limit_owners for candidate in candidates):
            return FreeGrant()
        if len(self._owners) > self._forget_at:
            self._forget_idle(self.clock())
        grant = MemoryGrant(self, shared, candidates, demand)
        await self.take(grant, range(len(candidates)))
        return grant

    async def take(self, grant: MemoryGrant, tried: range) -> None:
        """Hold the first of these candidates that has room, and the shared limits where they aren't held yet.

        Raises RateLimited.
        """
        while missing := self._take(grant, tried):
            await self._seed(missing, grant.demand)

    def _take(self, grant: MemoryGrant, tried: range) -> list[LimitOwner]:
        """Budgets whose spending must be known first; nothing is held then. Raises RateLimited."""
        now, demand = self.clock(), grant.demand
        shared = grant.holds or self._shared(grant, now)
        if demand.budgeted:
            for hold in shared:
                if hold.owner.budget is not None and not self._knows_spend(hold, demand):
                    return self._unseeded(grant, tried)
        skipped: tuple[LimitHit, ...] = ()
        for index in tried:
            candidate = grant.candidates[index]
            hit = self._full_of_budgets(shared, candidate, demand) if demand.budgeted else None
            own: list[_Hold] = []
            for owner in () if hit is not None else candidate.limit_owners:
                counts = self._owners.get(owner.identity) or self._counts(owner)
                if hit := counts.full(owner, demand.tokens, now):
                    break
                own.append(_Hold(owner, counts))
                if owner.budget is None or not demand.budgeted:
                    continue
                if not self._knows_spend(own[-1], demand):
                    return self._unseeded(grant, tried)
                if hit := self._full_of_budgets(own[-1:], candidate, demand):
                    break
            if hit is None:
                grant.hold(index, shared, own, now)
                grant.skipped += skipped
                return []
            skipped += (hit,)
        grant.skipped += skipped
        raise refused(skipped, demand, self.rate_limits(grant.shared))

    def _shared(self, grant: MemoryGrant, now: float) -> list[_Hold]:
        """Of the limits that keep the request out whichever candidate serves it. Raises RateLimited."""
        holds = []
        for owner in grant.shared:
            counts = self._owners.get(owner.identity) or self._counts(owner)
            if hit := counts.full(owner, grant.demand.tokens, now):
                raise refused([hit], grant.demand, self.rate_limits(grant.shared))
            holds.append(_Hold(owner, counts))
        return holds

    def rate_limits(self, shared: Sequence[LimitOwner]) -> RateLimitStates:
        owner = rate_limited_owner(shared)
        if owner is None:
            return NO_RATE_LIMITS
        return self._counts(owner).window.rate_limits(owner.limits, self.clock())

    def count_past(self, owner: LimitOwner, requests: int, tokens: int, at: float) -> None:
        """What was let through elsewhere; `at` by this admission's clock, in order."""
        if owner.rated:
            self._counts(owner).window.add(requests, tokens, at)

    def open_calls(self, kind: str, owner: int) -> int:
        """Calls of one owner that are not settled yet."""
        counts = self._owners.get((kind, owner))
        return counts.open if counts else 0

    def spending(self, owner: LimitOwner, at: float) -> tuple[int, int]:
        """(spent, reserved) of a budget in nano-USD; (0, 0) before its first use."""
        assert owner.budget is not None
        spend = self._counts(owner).spends.get(self._periods.of(owner.budget, at)[0])
        return (spend.spent, spend.reserved) if spend else (0, 0)

    def budgets(self) -> list[tuple[str, int, float | None, int, int, int]]:
        """(kind, id, start of the period, spent, reserved, open calls) of all; from any thread."""
        return [
            (kind, owner, start, spend.spent, spend.reserved, counts.open)
            for (kind, owner), counts in list(self._owners.items())
            for start, spend in list(counts.spends.items())
        ]

    async def start(self) -> None:
        """Nothing to connect to."""

    def state(self) -> dict[str, object]:
        return {"kept": "in this process", "problem": None}

    async def aclose(self) -> bool:
        """Nothing to write down: the log has it all."""
        return True

    def _knows_spend(self, hold: _Hold, demand: Demand) -> bool:
        """Whether what its budget has spent is known; asked each time, as it may have to be read again."""
        budget, counts = hold.owner.budget, hold.counts
        if budget is None:
            return True
        asked, spend = counts.latest
        if asked is budget and spend.since <= demand.at < spend.until:
            hold.spend = spend
            return True
        found = hold.spend = counts.spends.get(self._periods.of(budget, demand.at)[0])
        if found is None:
            return False
        counts.latest = budget, found
        return True

    def _full_of_budgets(
        self, holds: Sequence[_Hold], candidate: Candidate, demand: Demand
    ) -> LimitHit | None:
        cost = candidate.cost_nano
        for hold in holds:
            budget, spend = hold.owner.budget, hold.spend
            if budget is None or spend is None:
                continue
            if cost is None:
                return LimitHit(hold.owner, "price", NEVER)
            left = budget.limit_nano - spend.spent - spend.reserved + hold.cost
            if cost and cost > left:  # what costs nothing may go on where a budget is spent
                _, end = self._periods.of(budget, demand.at)
                wait = NEVER if end is None else max(end - demand.at, 0.001)
                return LimitHit(hold.owner, "budget", wait, left)
        return None

    def _unseeded(self, grant: MemoryGrant, tried: range) -> list[LimitOwner]:
        limit_owners = [
            *grant.shared,
            *(owner for index in tried for owner in grant.candidates[index].limit_owners),
        ]
        return [
            owner
            for owner in limit_owners
            if not self._knows_spend(_Hold(owner, self._counts(owner)), grant.demand)
        ]

    async def _seed(self, limit_owners: list[LimitOwner], demand: Demand) -> None:
        for owner in limit_owners:
            assert owner.budget is not None
            start, end = self._periods.of(owner.budget, demand.at)
            await self._seeding.once(owner, start, partial(self._start, owner, start, end))

    async def _start(self, owner: LimitOwner, start: float | None, end: float | None) -> None:
        counts, asked = self._counts(owner), self.recounted
        again = counts.recounting.get(start)
        spend, open_calls = again or (_Spend(start, end), frozenset())
        if again:
            await asyncio.sleep(0)  # what was settled until now is in the journal after this turn
        spent = await self._seeding.spent(owner, start, end, open_calls)
        if self.recounted != asked:
            return  # read too early, perhaps: the caller sees that it is missing, and comes back
        counts.recounting.pop(start, None)
        spend.spent += spent
        spends = counts.spends
        spends.setdefault(start, spend)
        # The period before may still be asked for, by calls that came just before its end.
        for old in sorted(other for other in spends if other is not None)[:-2]:
            del spends[old]
            counts.latest = NOTHING_ASKED

    def _counts(self, owner: LimitOwner) -> _Counts:
        counts = self._owners.get(owner.identity)
        if counts is None:
            counts = self._owners[owner.identity] = _Counts()
        return counts

    def _forget_idle(self, now: float) -> None:
        for owner, counts in list(self._owners.items()):
            if not counts.window.clears_in(now) and not counts.open and not counts.spends:
                del self._owners[owner]
        self._forget_at = 2 * len(self._owners) + FORGET_AFTER
