"""What one call holds of the limits that are counted in Redis."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
from proxy.admission.redis_ledger import Record
from proxy.admission.redis_link import RedisAway, Word
from proxy.admission.redis_owners import RedisOwner
from proxy.admission.refusals import refused

if TYPE_CHECKING:
    from proxy.admission.redis import RedisAdmission

KINDS = ("", "rpm", "tpm", "parallel", "budget", "price")
SEED_TRIES = 5


class Recent:
    """A request of the last minute, in case that Redis forgets it or never heard of it."""

    __slots__ = ("at", "owners", "tokens", "told")

    def __init__(self, at: float, owners: list[RedisOwner], tokens: int, *, told: bool) -> None:
        self.at = at
        self.owners = owners
        self.tokens = tokens
        self.told = told  # whether Redis knows


class RedisGrant:
    __slots__ = (
        "_admission",
        "_ask",
        "_bucket",
        "_headrooms",
        "_held",
        "_need",
        "_options",
        "_own",
        "_settled",
        "_shared",
        "_shared_owners",
        "call",
        "local",
        "option",
        "recent",
        "renew_at",
        "skipped",
        "told",
    )

    def __init__(
        self, admission: "RedisAdmission", shared: Sequence[Claim], options: Sequence[Option], need: Need
    ) -> None:
        self._admission = admission
        self._shared = shared
        self._options = options
        self._need = need
        self._ask = admission.asks.of(shared, options, need)
        self._shared_owners = self._ask.shared
        self._own: list[RedisOwner] = []  # of the option that is held, or was held last
        self._bucket: tuple[Word, Word] = ("", "")  # where tokens of shared, of the option were counted
        self._headrooms: Headrooms = NO_HEADROOMS
        self._held = False
        self._settled = False
        self.call = need.id
        self.local: Grant | None = None  # of the in-process limits, while Redis is away
        self.told = True  # whether Redis knows what is held, or will by the ledger
        self.recent: Recent | None = None
        self.renew_at = 0.0
        self.option = 0
        self.skipped: tuple[NoRoom, ...] = ()

    @property
    def reserved_nano(self) -> int | None:
        return reservation(self._shared, self._options[self.option])

    @property
    def budgeted(self) -> bool:
        return self._need.budgeted

    @property
    def headrooms(self) -> Headrooms:
        return self.local.headrooms if self.local is not None else self._headrooms

    async def move(self, first: int, last: int) -> None:
        if not self._anything_changes(first, last):
            self.option = first
            return
        try:
            await self.take(range(first, last), moving=True)
            return
        except RedisAway as away:
            self._admission.check_open(away)
        self._admission.record(record_of("S", self.call, self._words("S", self._own, 0, 0, self._bucket[1])))
        self._held = False
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

    async def take(self, tried: range, *, moving: bool) -> None:
        """Hold the first of these options that has room. Raises RateLimited, RedisAway."""
        admission, need = self._admission, self._need
        if moving:
            options = [self._options[index] for index in tried]
            old = self._own if self._held else []
            ask = admission.asks.made(self._shared, old, options, need)
            words = ask.words(self.call, need.tokens, self._bucket[1] or "0", options)
        else:
            ask = self._ask
            words = ask.words(self.call, need.tokens, "", self._options)
        reply = await admission.line.run_packed(ask.script, words)
        for _ in range(SEED_TRIES):
            if reply[0] != -1:
                break
            await admission.seed([ask.owners[position - 1].claim for position in reply[1:]], need)
            reply = await admission.line.run_packed(ask.script, words)
        else:
            raise RedisAway("it forgets what it is told")
        self._read(reply, ask.owners, tried, moving=moving)

    def _read(self, reply: list[int], owners: list[RedisOwner], tried: range, *, moving: bool) -> None:
        rpm, tpm = self._ask.rates.rpm, self._ask.rates.tpm
        self._headrooms = (
            None if rpm is None else Headroom(rpm, reply[3], reply[4] / 1000),
            None if tpm is None else Headroom(tpm, reply[5], reply[6] / 1000),
        )
        reasons: tuple[NoRoom, ...] = ()
        if len(reply) > 7:
            reasons = tuple(self._reason(owners, *reply[at : at + 4]) for at in range(7, len(reply), 4))
            self.skipped += reasons
        self._held = False
        if reply[0] != 1:
            raise refused(reasons, self._need, self._headrooms)
        self._hold(tried[reply[1] - 1])
        self._bucket = (self._bucket[0] if moving else reply[2], reply[2])

    def _hold(self, option: int) -> None:
        self.option = option
        known = self._ask.options
        claims = self._options[option].claims
        self._own = (
            known[option] if option < len(known) else self._admission.owners.all_of(claims, self._need)
        )
        self._held = True

    def _reason(self, owners: list[RedisOwner], position: int, kind: int, wait_ms: int, left: int) -> NoRoom:
        owner, limit = owners[position - 1], KINDS[kind]
        wait = wait_ms / 1000
        if limit == "price":
            wait = NEVER
        elif limit == "budget":
            wait = NEVER if owner.end is None else max(owner.end - self._need.at, 0.001)
        return NoRoom(owner.claim, limit, wait, left)

    def hold_locally(self, local: Grant) -> None:
        self.local, self.skipped = local, local.skipped
        self.told = False
        self._hold(local.option)

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        if self._settled:
            return
        self._settled = True
        if self.local is not None:
            self.local.settle(tokens, cost_nano)
        if self.recent is not None and tokens is not None:
            self.recent.tokens = tokens
        self._admission.settled(self, tokens, cost_nano)

    def settle_record(self, tokens: int | None, cost_nano: int | None) -> Record | None:
        cost = self.cost(cost_nano)
        words = self._words("S", self._shared_owners, tokens, cost, self._bucket[0])
        if self._held:
            words += self._words("S", self._own, tokens, cost, self._bucket[1])
        return record_of("S", self.call, words)

    def hold_record(self) -> Record | None:
        """Renews the lease of what is held; also tells a Redis that has forgotten it."""
        amount = self._options[self.option].cost_nano or 0
        owners = self._last_owners() if self._held else self._shared_owners
        return record_of("H", self.call, self._words("H", owners, None, amount, ""))

    def release_record(self) -> Record | None:
        """For a call of which Redis may have heard or not, and that holds nothing."""
        owners = list(self._shared_owners)
        for option in self._options:
            found = self._admission.owners.all_of(option.claims, self._need)
            owners += [owner for owner in found if owner not in owners]
        return record_of("S", self.call, self._words("S", owners, None, 0, ""))

    def charges(self, cost_nano: int | None) -> list[tuple[str, str, int]]:
        """(owner, period, nano-USD) for each budget."""
        cost = self.cost(cost_nano)
        return [(owner.base, owner.period, cost) for owner in self._last_owners() if owner.period]

    def counted(self) -> list[RedisOwner]:
        """The owners whose requests or tokens are counted per minute."""
        if self._held and self.option < len(self._ask.options):
            return self._ask.counted(self.option)
        return [owner for owner in self._last_owners() if owner.counted]

    def cost(self, cost_nano: int | None) -> int:
        return (self.reserved_nano or 0) if cost_nano is None else cost_nano

    def _last_owners(self) -> list[RedisOwner]:
        return self._shared_owners + self._own

    def _words(
        self, kind: str, owners: list[RedisOwner], tokens: int | None, cost: int, bucket: Word
    ) -> list[Record]:
        found: list[Record] = []
        corrects = kind == "S" and tokens is not None and bucket != ""
        difference = (tokens or 0) - self._need.tokens
        for owner in owners:
            if corrects and owner.limits[1] != "":
                found.append((owner.base, owner.parallel, bucket, difference, owner.period, cost, owner.ends))
            elif owner.parallel or owner.period:
                found.append((owner.base, owner.parallel, "", "", owner.period, cost, owner.ends))
        return found


def record_of(kind: str, call: str, owners: list[Record]) -> Record | None:
    if not owners:
        return None
    words: Record = (kind, call, len(owners))
    for owner in owners:
        words += owner
    return words
