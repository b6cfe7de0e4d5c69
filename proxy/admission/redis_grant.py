"""What one call holds of the limits that are counted in Redis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from proxy.admission.base import (
    NEVER,
    NO_HEADROOMS,
    Claim,
    Grant,
    Headroom,
    Headrooms,
    Need,
    NoRoom,
    Option,
    reservation,
)
from proxy.admission.redis_ask import Ask
from proxy.admission.redis_held import NOTHING, Held, Recent
from proxy.admission.redis_ledger import Record
from proxy.admission.redis_line import GRANTED
from proxy.admission.redis_link import RedisAway
from proxy.admission.redis_owners import RedisOwner
from proxy.admission.refusals import refused
from proxy.errors import RateLimited
from routing.table import Limits

if TYPE_CHECKING:
    from proxy.admission.redis import RedisAdmission

KINDS = ("", "rpm", "tpm", "parallel", "budget", "price")
NOT_FULL = 7  # numbers in an answer of scripts/admit.lua that tells of nothing that was full


class RedisGrant(msgspec.Struct, eq=False):
    _admission: "RedisAdmission"
    _shared: Sequence[Claim]
    _options: Sequence[Option]
    need: Need
    _ask: Ask
    held: Held = NOTHING
    _bucket: int = 0  # where tokens of shared were counted
    _own_bucket: int = 0  # where those of the option were
    _headrooms: Headrooms = NO_HEADROOMS
    _settled: bool = False
    local: Grant | None = None  # of the in-process limits, while Redis is away
    told: bool = True  # whether Redis knows what is held, or will by the ledger
    recent: Recent | None = None
    renew_at: float = 0.0
    option: int = 0
    skipped: tuple[NoRoom, ...] = ()

    @property
    def reserved_nano(self) -> int | None:
        option = self._options[self.option]
        return option.cost_nano if self.held.budgeted else reservation(self._shared, option)

    @property
    def headrooms(self) -> Headrooms:
        return self.local.headrooms if self.local is not None else self._headrooms

    async def move(self, first: int, last: int) -> None:
        if not self._anything_changes(first, last):
            self.option = first
            return
        old, ask = self.held.own, self._ask
        options = self._options[first:last]
        wider = self._admission.asks.made(self._shared, old, options, self.need)
        try:
            reply = await self._admission.reply(wider, self.need, self._own_bucket, options)
        except RedisAway as away:
            self._admission.check_open(away)
        else:
            self.held = Held(ask.shared, [])  # unless one of them has room
            self._headrooms = _headrooms_of(ask.rates, reply)
            self.skipped += _reasons(reply, wider, self.need)
            if reply[0] != GRANTED:
                raise _refusal(reply, wider, self.need)
            self._hold(first + reply[1] - 1)
            self._own_bucket = reply[2]
            return
        self._admission.record(self._let_go_record(old))
        if self.local is not None:
            await self.local.move(first, last)
            first = self.local.option
        self._hold(first)

    def _anything_changes(self, first: int, last: int) -> bool:
        touched = [self._options[self.option], *self._options[first:last]]
        if any(option.claims for option in touched):
            return True
        budget = any(claim.budget is not None for claim in self._shared)
        return budget and self._options[first].cost_nano != self._options[self.option].cost_nano

    def hold(self, reply: list[int]) -> None:
        """What Redis has granted to a new call. Raises RateLimited where it has refused."""
        if reply[0] != GRANTED:
            raise _refusal(reply, self._ask, self.need)
        rates = self._ask.rates
        if rates.rpm is not None or rates.tpm is not None:
            self._headrooms = _headrooms_of(rates, reply)
        if len(reply) > NOT_FULL:
            self.skipped = _reasons(reply, self._ask, self.need)
        self.option = option = reply[1] - 1
        self.held = self._ask.held(option)
        self._bucket = self._own_bucket = reply[2]

    def hold_locally(self, local: Grant) -> None:
        self.local, self.skipped = local, local.skipped
        self.told = False
        self._hold(local.option)

    def _hold(self, option: int) -> None:
        self.option = option
        if option < len(self._ask.options):
            self.held = self._ask.held(option)
        else:  # of a fallback route, which came later
            own = self._admission.owners.all_of(self._options[option].claims, self.need)
            self.held = Held(self._ask.shared, own)

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        if self.local is not None:
            self.local.settle(tokens, cost_nano)
        difference = 0 if tokens is None else tokens - self.need.tokens
        if self.recent is not None:
            self.recent.tokens += difference
        cost = (self.reserved_nano or 0) if cost_nano is None else cost_nano
        record = self.held.ended(self.need.id, cost, self._bucket, self._own_bucket, difference)
        self._admission.settled(self, record, cost)

    def hold_record(self) -> Record | None:
        return self.held.goes_on(self.need.id, self._options[self.option].cost_nano or 0)

    def charges(self, cost: int) -> list[tuple[str, str, int]]:
        """(owner, period, nano-USD) for each budget."""
        found = []
        for owner in self.held.owners:
            if owner.period is not None:
                found.append((owner.base, owner.period, cost))
        return found

    def _let_go_record(self, own: list[RedisOwner]) -> Record | None:
        let_go = Held([], own)
        return let_go.ended(self.need.id, 0, own_bucket=self._own_bucket, difference=-self.need.tokens)


def _refusal(reply: list[int], ask: Ask, need: Need) -> RateLimited:
    return refused(_reasons(reply, ask, need), need, _headrooms_of(ask.rates, reply))


def _headrooms_of(rates: Limits, reply: list[int]) -> Headrooms:
    rpm, tpm = rates.rpm, rates.tpm
    return (
        None if rpm is None else Headroom(rpm, reply[3], reply[4] / 1000),
        None if tpm is None else Headroom(tpm, reply[5], reply[6] / 1000),
    )


def _reasons(reply: list[int], ask: Ask, need: Need) -> tuple[NoRoom, ...]:
    places = range(NOT_FULL, len(reply), 4)
    return tuple(_reason(need, ask.owners[reply[at] - 1], *reply[at + 1 : at + 4]) for at in places)


def _reason(need: Need, owner: RedisOwner, kind: int, wait_ms: int, left: int) -> NoRoom:
    limit, wait = KINDS[kind], wait_ms / 1000
    if limit == "price":
        wait = NEVER
    elif limit == "budget":
        wait = NEVER if owner.end is None else max(owner.end - need.at, 0.001)
    return NoRoom(owner.claim, limit, wait, left)
