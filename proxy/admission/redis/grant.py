"""What one call holds of the limits that are counted in Redis."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from proxy.admission.base import (
    NEVER,
    NO_RATE_LIMITS,
    Candidate,
    Demand,
    Grant,
    LimitHit,
    LimitOwner,
    RateLimitState,
    RateLimitStates,
    reservation,
)
from proxy.admission.redis.calls import AdmitCall, AdmitCalls
from proxy.admission.redis.connection import RedisAway
from proxy.admission.redis.holds import NO_HOLDS, Holds, Recent
from proxy.admission.redis.owners import RedisOwner, RedisOwners
from proxy.admission.redis.scripts import GRANTED, Record
from proxy.admission.refusals import refused
from proxy.errors import RateLimited
from routing.table import Limits

KINDS = ("", "rpm", "tpm", "parallel", "budget", "price")
NOT_FULL = 7  # numbers in an answer of lua/admit.lua that names nothing that was full


class GrantStore(Protocol):
    """What a grant asks of the store that gave it."""

    owners: RedisOwners
    admit_calls: AdmitCalls

    async def reply(
        self, admit_call: AdmitCall, demand: Demand, bucket: int, candidates: Sequence[Candidate]
    ) -> list[int]:
        """Of lua/admit.lua. Raises LimitsUnavailable, RedisAway."""

    def check_open(self, away: RedisAway) -> None:
        """Raises LimitsUnavailable where nothing is let through while Redis is away."""

    def record(self, record: Record | None) -> None:
        """To be reported to Redis; None is nothing."""

    def settled(self, grant: "RedisGrant", record: Record | None, cost: int) -> None:
        """The grant's call has ended, at `cost` in nano-USD."""


class RedisGrant(msgspec.Struct, eq=False):
    _store: GrantStore
    _shared: Sequence[LimitOwner]
    _candidates: Sequence[Candidate]
    demand: Demand
    _admit_call: AdmitCall
    holds: Holds = NO_HOLDS
    _bucket: int = 0  # where tokens of shared were counted
    _own_bucket: int = 0  # where those of the candidate were
    _rate_limits: RateLimitStates = NO_RATE_LIMITS
    _settled: bool = False
    local: Grant | None = None  # of the in-process limits, while Redis is away
    reported: bool = True  # whether Redis knows what is held, or will by the records on their way
    recent: Recent | None = None
    renew_at: float = 0.0
    candidate: int = 0
    skipped: tuple[LimitHit, ...] = ()

    @property
    def reserved_nano(self) -> int | None:
        candidate = self._candidates[self.candidate]
        return candidate.cost_nano if self.holds.budgeted else reservation(self._shared, candidate)

    @property
    def rate_limits(self) -> RateLimitStates:
        return self.local.rate_limits if self.local is not None else self._rate_limits

    async def move(self, first: int, last: int) -> None:
        if not self._anything_changes(first, last):
            self.candidate = first
            return
        old, admit_call = self.holds.own, self._admit_call
        candidates = self._candidates[first:last]
        wider = self._store.admit_calls.make(self._shared, old, candidates, self.demand)
        try:
            reply = await self._store.reply(wider, self.demand, self._own_bucket, candidates)
        except RedisAway as away:
            self._store.check_open(away)
        else:
            self.holds = Holds(admit_call.shared, [])  # unless one of them has room
            self._rate_limits = _rate_limits_of(admit_call.rates, reply)
            self.skipped += _hits(reply, wider, self.demand)
            if reply[0] != GRANTED:
                raise _refusal(reply, wider, self.demand)
            self._hold(first + reply[1] - 1)
            self._own_bucket = reply[2]
            return
        self._store.record(self._let_go_record(old))
        if self.local is not None:
            await self.local.move(first, last)
            first = self.local.candidate
        self._hold(first)

    def _anything_changes(self, first: int, last: int) -> bool:
        touched = [self._candidates[self.candidate], *self._candidates[first:last]]
        if any(candidate.limit_owners for candidate in touched):
            return True
        budget = any(limit_owner.budget is not None for limit_owner in self._shared)
        return budget and self._candidates[first].cost_nano != self._candidates[self.candidate].cost_nano

    def hold(self, reply: list[int]) -> None:
        """What Redis has granted to a new call. Raises RateLimited where it has refused."""
        if reply[0] != GRANTED:
            raise _refusal(reply, self._admit_call, self.demand)
        rates = self._admit_call.rates
        if rates.rpm is not None or rates.tpm is not None:
            self._rate_limits = _rate_limits_of(rates, reply)
        if len(reply) > NOT_FULL:
            self.skipped = _hits(reply, self._admit_call, self.demand)
        self.candidate = candidate = reply[1] - 1
        self.holds = self._admit_call.holds_of(candidate)
        self._bucket = self._own_bucket = reply[2]

    def hold_locally(self, local: Grant) -> None:
        self.local, self.skipped = local, local.skipped
        self.reported = False
        self._hold(local.candidate)

    def _hold(self, candidate: int) -> None:
        self.candidate = candidate
        if candidate < len(self._admit_call.candidates):
            self.holds = self._admit_call.holds_of(candidate)
        else:  # of a fallback route, which came later
            own = self._store.owners.all_of(self._candidates[candidate].limit_owners, self.demand)
            self.holds = Holds(self._admit_call.shared, own)

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        if self.local is not None:
            self.local.settle(tokens, cost_nano)
        difference = 0 if tokens is None else tokens - self.demand.tokens
        if self.recent is not None:
            self.recent.tokens += difference
        cost = (self.reserved_nano or 0) if cost_nano is None else cost_nano
        record = self.holds.ended(self.demand.id, cost, self._bucket, self._own_bucket, difference)
        self._store.settled(self, record, cost)

    def hold_record(self) -> Record | None:
        return self.holds.goes_on(self.demand.id, self._candidates[self.candidate].cost_nano or 0)

    def charges(self, cost: int) -> list[tuple[str, str, int]]:
        """(owner, period, nano-USD) for each budget."""
        found = []
        for owner in self.holds.owners:
            if owner.period is not None:
                found.append((owner.base, owner.period, cost))
        return found

    def _let_go_record(self, own: list[RedisOwner]) -> Record | None:
        let_go = Holds([], own)
        return let_go.ended(self.demand.id, 0, own_bucket=self._own_bucket, difference=-self.demand.tokens)


def _refusal(reply: list[int], admit_call: AdmitCall, demand: Demand) -> RateLimited:
    return refused(_hits(reply, admit_call, demand), demand, _rate_limits_of(admit_call.rates, reply))


def _rate_limits_of(rates: Limits, reply: list[int]) -> RateLimitStates:
    rpm, tpm = rates.rpm, rates.tpm
    return (
        None if rpm is None else RateLimitState(rpm, reply[3], reply[4] / 1000),
        None if tpm is None else RateLimitState(tpm, reply[5], reply[6] / 1000),
    )


def _hits(reply: list[int], admit_call: AdmitCall, demand: Demand) -> tuple[LimitHit, ...]:
    places = range(NOT_FULL, len(reply), 4)
    return tuple(_hit(demand, admit_call.owners[reply[at] - 1], *reply[at + 1 : at + 4]) for at in places)


def _hit(demand: Demand, owner: RedisOwner, kind: int, wait_ms: int, left: int) -> LimitHit:
    limit, wait = KINDS[kind], wait_ms / 1000
    if limit == "price":
        wait = NEVER
    elif limit == "budget":
        wait = NEVER if owner.end is None else max(owner.end - demand.at, 0.001)
    return LimitHit(owner.limit_owner, limit, wait, left)
