"""Limits counted in Redis: for any number of web processes, one script call per request."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import lru_cache, partial

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
from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis_ledger import Ledger, Record
from proxy.admission.redis_line import ADMIT, PREFIX, SEED, RedisLine
from proxy.admission.redis_link import RedisAway, RedisLink, RedisRefused, Word
from proxy.admission.redis_owed import LatelySettled, Owed
from proxy.admission.refusals import refused
from proxy.admission.seeding import Seeding
from proxy.admission.window import BUCKET, MINUTE
from proxy.errors import LimitsUnavailable
from routing.periods import Periods, period_id
from routing.table import Claim

logger = logging.getLogger(__name__)

KINDS = ("", "rpm", "tpm", "parallel", "budget", "price")
YOUNG_SECONDS = 2.0
"""So long after Redis came back others may still have to tell what they know: they reconnect in that time."""

SEED_TRIES = 5
CATCH_UPS = 3
FLUSH_SECONDS = 5.0


class _Recent:
    """A request of the last minute, in case that Redis forgets it or never heard of it."""

    __slots__ = ("at", "claims", "tokens", "told")

    def __init__(self, at: float, claims: list[Claim], tokens: int, *, told: bool) -> None:
        self.at = at
        self.claims = claims
        self.tokens = tokens
        self.told = told  # whether Redis knows


class RedisGrant:
    __slots__ = (
        "_admission",
        "_bucket",
        "_headrooms",
        "_held",
        "_need",
        "_options",
        "_settled",
        "_shared",
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
        self._bucket: tuple[Word, Word] = ("", "")  # where tokens of shared, of the option were counted
        self._headrooms: Headrooms = (None, None)
        self._held = False
        self._settled = False
        self.call = need.id
        self.local: Grant | None = None  # of the in-process limits, while Redis is away
        self.told = True  # whether Redis knows what is held, or will by the ledger
        self.recent: _Recent | None = None
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
        self._admission.record(self._record("S", self._options[self.option].claims, 0, 0))
        self._held = False
        if self.local is not None:
            await self.local.move(first, last)
            self.option = self.local.option
        else:
            self.option = first
        self._held = True

    def _anything_changes(self, first: int, last: int) -> bool:
        touched = [self._options[self.option], *self._options[first:last]]
        if any(option.claims for option in touched):
            return True
        budget = any(claim.budget is not None for claim in self._shared)
        return budget and self._options[first].cost_nano != self._options[self.option].cost_nano

    async def take(self, tried: range, *, moving: bool) -> None:
        """Hold the first of these options that has room. Raises RateLimited, RedisAway."""
        admission = self._admission
        old = self._options[self.option].claims if moving and self._held else ()
        claims = [*self._shared, *old, *(claim for index in tried for claim in self._options[index].claims)]
        keys = [base_of(claim) for claim in claims]
        words: list[Word] = [
            self.call,
            admission.lease_ms,
            self._need.tokens,
            len(self._shared),
            len(old),
            (self._bucket[1] or "0") if moving else "",
            len(tried),
        ]
        for index in tried:
            option = self._options[index]
            words += ("" if option.cost_nano is None else option.cost_nano, len(option.claims))
        for claim in claims:
            words += admission.limit_words(claim, self._need)
        reply = await admission.line.run(ADMIT, keys, *words)
        for _ in range(SEED_TRIES):
            if reply[0] != -1:
                break
            await admission.seed([claims[position - 1] for position in reply[1:]], self._need)
            reply = await admission.line.run(ADMIT, keys, *words)
        else:
            raise RedisAway("it forgets what it is told")
        self._read(reply, claims, tried, moving=moving)

    def _read(self, reply: list[int], claims: list[Claim], tried: range, *, moving: bool) -> None:
        self._headrooms = _headrooms(self._shared, reply[3:7])
        reasons = tuple(self._reason(claims, *reply[at : at + 4]) for at in range(7, len(reply), 4))
        self.skipped += reasons
        self._held = reply[0] == 1
        if not self._held:
            raise refused(reasons, self._need, self._headrooms)
        self.option = tried[reply[1] - 1]
        self._bucket = (self._bucket[0] if moving else reply[2], reply[2])

    def _reason(self, claims: list[Claim], position: int, kind: int, wait_ms: int, left: int) -> NoRoom:
        claim, limit = claims[position - 1], KINDS[kind]
        wait = wait_ms / 1000
        if limit == "price":
            wait = NEVER
        elif limit == "budget":
            wait = self._admission.resets_in(claim, self._need)
        return NoRoom(claim, limit, wait, left)

    def hold_locally(self, local: Grant) -> None:
        self.local, self.option, self.skipped = local, local.option, local.skipped
        self.told = False
        self._held = True

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
        option = self._options[self.option] if self._held else None
        cost = self.cost(cost_nano)
        shared = self._words("S", self._shared, tokens, cost, self._bucket[0])
        own = self._words("S", option.claims if option else (), tokens, cost, self._bucket[1])
        return _record("S", self.call, shared + own)

    def hold_record(self) -> Record | None:
        """Renews the lease of what is held; also tells a Redis that has forgotten it."""
        option = self._options[self.option]
        claims = [*self._shared, *(option.claims if self._held else ())]
        return _record("H", self.call, self._words("H", claims, None, option.cost_nano or 0, ""))

    def release_record(self) -> Record | None:
        """For a call of which Redis may have heard or not, and that holds nothing."""
        claims = list(self._shared)
        for option in self._options:
            claims += [claim for claim in option.claims if claim not in claims]
        return _record("S", self.call, self._words("S", claims, None, 0, ""))

    def charges(self, cost_nano: int | None) -> list[tuple[str, str, int]]:
        """(owner, period, nano-USD) for each budget."""
        claims = [*self._shared, *self._options[self.option].claims]
        cost = self.cost(cost_nano)
        words = [self._admission.hold_words(claim, self._need) for claim in claims]
        return [
            (base_of(claim), str(period), cost)
            for claim, (_, period, _) in zip(claims, words, strict=True)
            if period
        ]

    def counted(self) -> list[Claim]:
        """The owners whose requests or tokens are counted per minute."""
        claims = [*self._shared, *self._options[self.option].claims]
        return [claim for claim in claims if claim.limits.rpm is not None or claim.limits.tpm is not None]

    def cost(self, cost_nano: int | None) -> int:
        return (self.reserved_nano or 0) if cost_nano is None else cost_nano

    def _record(self, kind: str, claims: Sequence[Claim], tokens: int | None, cost: int) -> Record | None:
        return _record(kind, self.call, self._words(kind, claims, tokens, cost, self._bucket[1]))

    def _words(
        self, kind: str, claims: Sequence[Claim], tokens: int | None, cost: int, bucket: Word
    ) -> list[Record]:
        found: list[Record] = []
        for claim in claims:
            parallel, period, ends = self._admission.hold_words(claim, self._need)
            corrects = kind == "S" and claim.limits.tpm is not None and tokens is not None and bucket != ""
            if not parallel and not period and not corrects:
                continue
            difference = (tokens or 0) - self._need.tokens if corrects else ""
            where = bucket if corrects else ""
            found.append((base_of(claim), parallel, where, difference, period, cost, ends))
        return found


def _record(kind: str, call: str, owners: list[Record]) -> Record | None:
    if not owners:
        return None
    return (kind, call, len(owners), *(word for owner in owners for word in owner))


@lru_cache(maxsize=256)
def _period_words(start: float | None, end: float | None) -> tuple[str, Word]:
    return period_id(start), "" if end is None else int(end + 2 * 86400) * 1000


def base_of(claim: Claim) -> str:
    return f"{PREFIX}:{claim.path}"


def _headrooms(shared: Sequence[Claim], left: list[int]) -> Headrooms:
    claim = headroom_claim(shared)
    if claim is None:
        return None, None
    rpm, tpm = claim.limits.rpm, claim.limits.tpm
    return (
        None if rpm is None else Headroom(rpm, left[0], left[1] / 1000),
        None if tpm is None else Headroom(tpm, left[2], left[3] / 1000),
    )


class RedisAdmission:
    """`without` says what happens while Redis is away: open counts in this process, closed refuses.

    `timeout` (of a Redis command) and `lease` (of a hold whose worker died) are in seconds.
    """

    def __init__(self, url: str, spent: Spent, *, timeout: float, without: str, lease: float) -> None:
        self.line = RedisLine(url, timeout, self._on_up)
        self.lease_ms = int(lease * 1000)
        self._lease = lease
        self._without = without
        self._periods = Periods()
        self._spent = spent
        self.recounted = 0
        self._seeding = Seeding(spent)
        self._ledger = Ledger(self.lease_ms)
        self._open: dict[str, RedisGrant] = {}
        self._recent: deque[_Recent] = deque()
        self._local: MemoryAdmission | None = None
        self._owed = Owed()
        self._lately = LatelySettled()
        self._renewer: asyncio.Task[None] | None = None

    async def admit(self, shared: Sequence[Claim], options: Sequence[Option], need: Need) -> Grant:
        if not shared and not any(option.claims for option in options):
            return FreeGrant()
        if self._renewer is None:
            await self.start()
        grant = RedisGrant(self, shared, options, need)
        try:
            await grant.take(range(len(options)), moving=False)
        except RedisAway as away:
            self.record(grant.release_record())
            self.check_open(away)
            await self._take_here(grant, shared, options, need)
        except asyncio.CancelledError:
            self.record(grant.release_record())
            raise
        self._remember(grant, need)
        if not grant.told and self.line.link is not None:
            self._tell()  # Redis came back while this call was let through without it
        return grant

    async def start(self) -> None:
        """Connect, if Redis is there; its being away stops no start."""
        if self._renewer is None:
            self._renewer = asyncio.create_task(self._renew())
        await self.line.start()

    def state(self) -> dict[str, object]:
        kept = "in Redis"
        if self.line.link is None:
            kept = "in this process" if self._without == "open" else "nowhere: limited calls are refused"
        return {"kept": kept, "problem": "Redis is away" if self.line.problem else None}

    async def aclose(self) -> bool:
        link = self.line.link
        if link is not None and len(self._ledger):
            with contextlib.suppress(RedisAway, RedisRefused, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._ledger.flush(link)
        missing = len(self._ledger) + len(self._owed) + len(self._open)
        if missing:
            logger.error("%d records of limits never reached Redis; the log has them", missing)
        if self._renewer is not None:
            self._renewer.cancel()
        await self.line.stop()
        return not missing

    # What a grant asks for

    def check_open(self, away: RedisAway) -> None:
        if self._without != "open":
            raise LimitsUnavailable("Limits can't be checked now: try again.", retry_after=1) from away

    def record(self, record: Record | None) -> None:
        if record is not None:
            self._ledger.add(record)

    def settled(self, grant: RedisGrant, tokens: int | None, cost_nano: int | None) -> None:
        self._open.pop(grant.call, None)
        record = grant.settle_record(tokens, cost_nano)
        if record is None:
            return
        if not grant.told:
            if charges := grant.charges(cost_nano):
                self._owed.add(record, charges)
            return
        self.record(record)
        if grant.budgeted:
            self._lately.add(record)

    def limit_words(self, claim: Claim, need: Need) -> tuple[Word, ...]:
        limits = claim.limits
        rates = (limits.rpm or "", limits.tpm or "", limits.parallel or "")
        if claim.budget is None:
            return (*rates, "", "", "")
        _, period, ends = self.hold_words(claim, need)
        return (*rates, claim.budget.limit_nano, period, ends)

    def hold_words(self, claim: Claim, need: Need) -> tuple[Word, str, Word]:
        """(parallel, period, when Redis may forget the period in ms), blank where there is no such limit."""
        parallel = "1" if claim.limits.parallel is not None else ""
        if claim.budget is None:
            return parallel, "", ""
        start, end = self._periods.of(claim.budget, need.at)
        return parallel, *_period_words(start, end)

    def resets_in(self, claim: Claim, need: Need) -> float:
        assert claim.budget is not None
        _, end = self._periods.of(claim.budget, need.at)
        return NEVER if end is None else max(end - need.at, 0.001)

    # Budgets whose spending Redis does not know

    async def seed(self, claims: list[Claim], need: Need) -> None:
        """Raises LimitsUnavailable, RedisAway."""
        for claim in claims:
            assert claim.budget is not None
            start, end = self._periods.of(claim.budget, need.at)
            await self._seeding.once(claim, start, partial(self._seed, claim, need, start, end))

    async def _seed(self, claim: Claim, need: Need, start: float | None, end: float | None) -> None:
        if (young := YOUNG_SECONDS - self.line.steady_for) > 0:
            await asyncio.sleep(young)
        keys = [f"{base_of(claim)}:b:{period_id(start)}"]
        _, _, ends = self.hold_words(claim, need)
        pending: list[bytes] = await self.line.run(SEED, keys, ends, "", "")
        for tries_left in reversed(range(SEED_TRIES)):
            if not pending:
                return
            calls = [call.decode() for call in pending if call]
            spent = await self._seeding.spent(claim, start, end, calls)
            insist = "" if tries_left else "1"
            pending = await self.line.run(SEED, keys, ends, spent, insist, *calls)

    # While Redis is away

    def recount(self, number: int) -> None:
        """In Redis it was done by whoever corrected the costs."""
        self.recounted = number
        if self._local is not None:
            self._local.recount(number)

    async def _take_here(
        self, grant: RedisGrant, shared: Sequence[Claim], options: Sequence[Option], need: Need
    ) -> None:
        if self._local is None:
            self._local = MemoryAdmission(self._spent)
            for recent in self._recent:
                for claim in recent.claims:
                    self._local.count_past(claim, recent.tokens, recent.at)
        grant.hold_locally(await self._local.admit(shared, options, need))

    def _remember(self, grant: RedisGrant, need: Need) -> None:
        now = time.monotonic()
        grant.renew_at = now + self._lease / 3
        self._open[grant.call] = grant
        while self._recent and self._recent[0].at < now - MINUTE - BUCKET:
            self._recent.popleft()
        if counted := grant.counted():
            grant.recent = _Recent(now, counted, need.tokens, told=grant.told)
            self._recent.append(grant.recent)

    async def _on_up(self, link: RedisLink, lost_memory: bool) -> None:
        """Tell Redis what it does not know, before it is asked again."""
        self._ledger.link = None
        for grant in self._open.values():
            grant.told = False  # a lease may have ended meanwhile
        if lost_memory:
            for recent in self._recent:
                recent.told = False
            for record in self._lately.again():
                self._ledger.add(record)
        for _ in range(CATCH_UPS):
            self._tell()
            if not len(self._ledger):
                break
            await self._ledger.flush(link)
        # What came during the last flush follows at once, in front of all that comes later.
        self._ledger.link = link
        self._tell()
        self._local = None

    def _tell(self) -> None:
        """Put into the ledger what was let through or spent without Redis."""
        now = time.monotonic()
        for recent in self._recent:
            if not recent.told:
                recent.told = True
                for record in _window_records(recent, now):
                    self._ledger.add(record)
        for record in self._owed.take():
            self._ledger.add(record)
        for grant in self._open.values():
            if not grant.told:
                grant.told = True
                self.record(grant.hold_record())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / 6)
            now = time.monotonic()
            if self.line.link is None:
                continue
            for grant in list(self._open.values()):
                if grant.renew_at <= now:
                    grant.renew_at = now + self._lease / 3
                    self.record(grant.hold_record())


def _window_records(recent: _Recent, now: float) -> list[Record]:
    age_ms = int((now - recent.at) * 1000)
    return [
        (
            "W",
            base_of(claim),
            age_ms,
            int(claim.limits.rpm is not None),
            recent.tokens if claim.limits.tpm is not None else 0,
        )
        for claim in recent.claims
        if age_ms < MINUTE * 1000
    ]
