"""Limits counted in this process: for one web process without Redis."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial

from proxy.admission.base import (
    NEVER,
    FreeGrant,
    Grant,
    Headroom,
    Headrooms,
    Need,
    NoRoom,
    Option,
    Spent,
    headroom_claim,
    reservation,
)
from proxy.admission.refusals import refused
from proxy.admission.seeding import Seeding
from proxy.admission.window import Bucket, SlidingWindow
from routing.periods import Periods
from routing.table import Claim

FORGET_AFTER = 4096  # owners kept before idle ones are dropped


class _Spend:
    """Nano-USD of one owner in one period."""

    __slots__ = ("calls", "reserved", "spent")

    def __init__(self, spent: int) -> None:
        self.spent = spent
        self.reserved = 0
        self.calls: set[str] = set()  # that are open


class _Counts:
    __slots__ = ("open", "recounting", "requests", "spends", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()
        self.open = 0
        self.spends: dict[float | None, _Spend] = {}  # by the start of the period
        self.recounting: dict[float | None, tuple[_Spend, frozenset[str]]] = {}  # and the calls open then


class _Hold:
    """What one call holds of one owner."""

    __slots__ = ("bucket", "call", "cost", "counts", "spend")

    def __init__(
        self, call: str, counts: _Counts, bucket: Bucket | None, spend: _Spend | None, cost: int
    ) -> None:
        self.call = call
        self.counts = counts
        self.bucket = bucket
        self.spend = spend
        self.cost = cost

    def settle(self, reserved: int, tokens: int | None, cost: int | None, now: float) -> None:
        self.counts.open -= 1
        if self.bucket is not None and tokens is not None:
            self.counts.tokens.correct(self.bucket, tokens - reserved, now)
        if self.spend is not None:
            self.spend.calls.discard(self.call)
            self.spend.reserved -= self.cost
            self.spend.spent += self.cost if cost is None else cost


class MemoryGrant:
    __slots__ = ("_admission", "_held", "_need", "_options", "_shared", "_shared_holds", "option", "skipped")

    def __init__(
        self,
        admission: "MemoryAdmission",
        shared: Sequence[Claim],
        options: Sequence[Option],
        need: Need,
    ) -> None:
        self._admission = admission
        self._shared = shared
        self._options = options
        self._need = need
        self._shared_holds: list[_Hold] = []
        self._held: list[_Hold] = []
        self.option = 0
        self.skipped: tuple[NoRoom, ...] = ()

    @property
    def reserved_nano(self) -> int | None:
        return reservation(self._shared, self._options[self.option])

    @property
    def headrooms(self) -> Headrooms:
        return self._admission.headrooms(self._shared)

    async def move(self, first: int, last: int) -> None:
        self._let_go(0, 0)
        await self._admission.take(self, self._shared, self._options, self._need, range(first, last))

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        self._let_go(tokens, cost_nano)
        holds, self._shared_holds = self._shared_holds, []
        now = self._admission.clock()
        for hold in holds:
            hold.settle(self._need.tokens, tokens, cost_nano, now)

    def _let_go(self, tokens: int | None, cost_nano: int | None) -> None:
        holds, self._held = self._held, []
        now = self._admission.clock()
        for hold in holds:
            hold.settle(self._need.tokens, tokens, cost_nano, now)

    def hold(self, index: int, skipped: list[NoRoom]) -> None:
        """Take an option that was found to have room."""
        option, count = self._options[index], self._admission.count
        cost = option.cost_nano or 0
        if self._shared_holds:
            for hold in self._shared_holds:
                if hold.spend is not None:
                    hold.spend.reserved += cost - hold.cost
                    hold.cost = cost
        else:
            self._shared_holds = [count(claim, self._need, cost) for claim in self._shared]
        self._held = [count(claim, self._need, cost) for claim in option.claims]
        self.option = index
        self.skipped += tuple(skipped)

    def held_of(self, position: int) -> int:
        """Nano-USD that the call already holds against the budget of a shared claim."""
        return self._shared_holds[position].cost if self._shared_holds else 0


class MemoryAdmission:
    """Runs on one event loop: between check and count nothing else runs, so the two are one step."""

    def __init__(self, spent: Spent, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._periods = Periods()
        self._seeding = Seeding(spent)
        self._owners: dict[tuple[str, int], _Counts] = {}
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

    async def admit(self, shared: Sequence[Claim], options: Sequence[Option], need: Need) -> Grant:
        if not shared and not any(option.claims for option in options):
            return FreeGrant()
        if len(self._owners) > self._forget_at:
            self._forget_idle(self.clock())
        grant = MemoryGrant(self, shared, options, need)
        if reason := self._full_of_shared(shared, need):
            raise refused([reason], need, self.headrooms(shared))
        await self.take(grant, shared, options, need, range(len(options)), again=True)
        return grant

    async def take(
        self,
        grant: MemoryGrant,
        shared: Sequence[Claim],
        options: Sequence[Option],
        need: Need,
        tried: range,
        *,
        again: bool = False,
    ) -> None:
        """Hold the first of these options that has room. Raises RateLimited.

        `again`: the limits of `shared` were checked for this call, and must be so once more
        after a wait.
        """
        while need.budgeted and (missing := self._unseeded(shared, options, need, tried)):
            await self._seed(missing, need)
            if again and (reason := self._full_of_shared(shared, need)):
                raise refused([reason], need, self.headrooms(shared))
        skipped: list[NoRoom] = []
        for index in tried:
            reason = self._full(grant, shared, options[index], need)
            if reason is None:
                return grant.hold(index, skipped)
            skipped.append(reason)
        grant.skipped += tuple(skipped)
        raise refused(skipped, need, self.headrooms(shared))

    def headrooms(self, shared: Sequence[Claim]) -> Headrooms:
        claim = headroom_claim(shared)
        if claim is None:
            return None, None
        counts, now = self._counts(claim), self.clock()
        return (
            _headroom(counts.requests, claim.limits.rpm, now),
            _headroom(counts.tokens, claim.limits.tpm, now),
        )

    def count(self, claim: Claim, need: Need, cost: int) -> _Hold:
        counts, now = self._counts(claim), self.clock()
        counts.open += 1
        if claim.limits.rpm is not None:
            counts.requests.add(1, now)
        bucket = counts.tokens.add(need.tokens, now) if claim.limits.tpm is not None else None
        spend = self._spend(claim, need)
        if spend is not None:
            spend.reserved += cost
            spend.calls.add(need.id)
        return _Hold(need.id, counts, bucket, spend, cost)

    def count_past(self, claim: Claim, tokens: int, at: float) -> None:
        """A request that was let through elsewhere; `at` by this admission's clock, in order."""
        counts = self._counts(claim)
        if claim.limits.rpm is not None:
            counts.requests.add(1, at)
        if claim.limits.tpm is not None:
            counts.tokens.add(tokens, at)

    def open_calls(self, kind: str, owner: int) -> int:
        """Calls of one owner that are not settled yet."""
        counts = self._owners.get((kind, owner))
        return counts.open if counts else 0

    def spending(self, claim: Claim, at: float) -> tuple[int, int]:
        """(spent, reserved) of a budget in nano-USD; (0, 0) before its first use."""
        assert claim.budget is not None
        spend = self._counts(claim).spends.get(self._periods.of(claim.budget, at)[0])
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

    async def aclose(self) -> None:
        """Nothing to write down: the log has it all."""

    def _full_of_shared(self, shared: Sequence[Claim], need: Need) -> NoRoom | None:
        """What keeps the request out whichever option serves it."""
        now = self.clock()
        for claim in shared:
            if reason := _full_rates(claim, self._counts(claim), need.tokens, now):
                return reason
        return None

    def _full(self, grant: MemoryGrant, shared: Sequence[Claim], option: Option, need: Need) -> NoRoom | None:
        now = self.clock()
        if need.budgeted:
            for position, claim in enumerate(shared):
                if reason := self._full_budget(claim, option, need, grant.held_of(position)):
                    return reason
        for claim in option.claims:
            if reason := _full_rates(claim, self._counts(claim), need.tokens, now):
                return reason
            if reason := self._full_budget(claim, option, need, 0):
                return reason
        return None

    def _full_budget(self, claim: Claim, option: Option, need: Need, held: int) -> NoRoom | None:
        budget = claim.budget
        if budget is None:
            return None
        if option.cost_nano is None:
            return NoRoom(claim, "price", NEVER)
        spend = self._spend(claim, need)
        assert spend is not None
        left = budget.limit_nano - spend.spent - spend.reserved + held
        if not option.cost_nano or option.cost_nano <= left:
            return None  # what costs nothing may go on where a budget is spent
        _, end = self._periods.of(budget, need.at)
        return NoRoom(claim, "budget", NEVER if end is None else max(end - need.at, 0.001), left)

    def _spend(self, claim: Claim, need: Need) -> _Spend | None:
        if claim.budget is None:
            return None
        return self._counts(claim).spends.get(self._periods.of(claim.budget, need.at)[0])

    def _unseeded(
        self, shared: Sequence[Claim], options: Sequence[Option], need: Need, tried: range
    ) -> list[Claim]:
        claims = [*shared, *(claim for index in tried for claim in options[index].claims)]
        return [claim for claim in claims if claim.budget is not None and self._spend(claim, need) is None]

    async def _seed(self, claims: list[Claim], need: Need) -> None:
        for claim in claims:
            assert claim.budget is not None
            start, end = self._periods.of(claim.budget, need.at)
            await self._seeding.once(claim, start, partial(self._start, claim, start, end))

    async def _start(self, claim: Claim, start: float | None, end: float | None) -> None:
        counts, asked = self._counts(claim), self.recounted
        again = counts.recounting.get(start)
        spend, open_calls = again or (_Spend(0), frozenset())
        if again:
            await asyncio.sleep(0)  # what was settled until now is in the journal after this turn
        spent = await self._seeding.spent(claim, start, end, open_calls)
        if self.recounted != asked:
            return  # read too early, perhaps: the caller sees that it is missing, and comes back
        counts.recounting.pop(start, None)
        spend.spent += spent
        spends = counts.spends
        spends.setdefault(start, spend)
        # The period before may still be asked for, by calls that came just before its end.
        for old in sorted(other for other in spends if other is not None)[:-2]:
            del spends[old]

    def _counts(self, claim: Claim) -> _Counts:
        owner = (claim.kind, claim.id)
        counts = self._owners.get(owner)
        if counts is None:
            counts = self._owners[owner] = _Counts()
        return counts

    def _forget_idle(self, now: float) -> None:
        for owner, counts in list(self._owners.items()):
            idle = not counts.requests.clears_in(now) and not counts.tokens.clears_in(now)
            if idle and not counts.open and not counts.spends:
                del self._owners[owner]
        self._forget_at = 2 * len(self._owners) + FORGET_AFTER


def _full_rates(claim: Claim, counts: _Counts, tokens: int, now: float) -> NoRoom | None:
    limits = claim.limits
    if limits.parallel is not None and counts.open >= limits.parallel:
        return NoRoom(claim, "parallel")
    if limits.rpm is not None and (wait := counts.requests.wait_for(1, limits.rpm, now)):
        return NoRoom(claim, "rpm", wait)
    if limits.tpm is not None and (wait := counts.tokens.wait_for(tokens, limits.tpm, now)):
        return NoRoom(claim, "tpm", wait)
    return None


def _headroom(window: SlidingWindow, limit: int | None, now: float) -> Headroom | None:
    if limit is None:
        return None
    reset = window.clears_in(now)
    return Headroom(limit=limit, remaining=max(limit - window.total, 0), reset=reset)
