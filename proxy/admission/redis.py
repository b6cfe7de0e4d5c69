"""Limits counted in Redis: for any number of web processes, one script call per request."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from proxy.admission.base import FreeGrant, Grant, Need, Option, Spent
from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis_ask import NEW, Ask, Asks, asked_of
from proxy.admission.redis_grant import RedisGrant
from proxy.admission.redis_held import Held, Recent
from proxy.admission.redis_ledger import Ledger, Record
from proxy.admission.redis_line import SEED, UNSEEDED, RedisLine
from proxy.admission.redis_link import RedisAway, RedisLink, RedisRefused
from proxy.admission.redis_owed import LatelySettled, Owed
from proxy.admission.redis_owners import RedisOwner, RedisOwners
from proxy.admission.seeding import Seeding
from proxy.admission.window import BUCKET, MINUTE
from proxy.errors import LimitsUnavailable
from routing.table import Claim

logger = logging.getLogger(__name__)

YOUNG_SECONDS = 2.0
"""So long after Redis came back others may still have to tell what they know: they reconnect in that time."""

SEED_TRIES = 5
CATCH_UPS = 3
FLUSH_SECONDS = 5.0
NOT_RUN = [UNSEEDED]  # a reply, where there was none


class RedisAdmission:
    """`without` says what happens while Redis is away: open counts in this process, closed refuses.

    `timeout` (of a Redis command) and `lease` (of a hold whose worker died) are in seconds.
    """

    def __init__(self, url: str, spent: Spent, *, timeout: float, without: str, lease: float) -> None:
        self.line = RedisLine(url, timeout, self._on_up)
        self.lease_ms = int(lease * 1000)
        self._renew_after = lease / 3
        self._without = without
        self.owners = RedisOwners()
        self.asks = Asks(self.owners, self.lease_ms)
        self._spent = spent
        self.recounted = 0
        self._seeding = Seeding(spent)
        self._ledger = Ledger(self.lease_ms)
        self._open: dict[str, RedisGrant] = {}
        self._recent: deque[Recent] = deque()
        self._local: MemoryAdmission | None = None
        self._owed = Owed()
        self._lately = LatelySettled()
        self._renewer: asyncio.Task[None] | None = None

    def at_once(self, shared: tuple[Claim, ...], options: Sequence[Option], need: Need) -> None:
        """Nothing is known without asking."""

    async def admit(self, shared: tuple[Claim, ...], options: Sequence[Option], need: Need) -> Grant:
        ask = self.asks.of(shared, options, need)
        if not ask.owners:
            return FreeGrant()
        if self._renewer is None:
            await self.start()
        grant = RedisGrant(self, shared, options, need, ask)
        try:
            link, asked = self.line.link, asked_of(need, NEW, options)
            try:
                # The link's own future: each coroutine in between would be passed again when it is done.
                reply = NOT_RUN if link is None else await link.send(ask.script.by_sha(asked))
            except RedisRefused:
                reply = NOT_RUN  # perhaps it only doesn't know the script
            if reply[0] == UNSEEDED:
                reply = await self.reply(ask, need, NEW, options)
            grant.hold(reply)
        except RedisAway as away:
            self.record(ask.all_held().ended(need.id, 0))
            self.check_open(away)
            await self._take_here(grant, shared, options, need)
        except asyncio.CancelledError:
            self.record(ask.all_held().ended(need.id, 0))
            raise
        self._remember(grant)
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

    async def reply(self, ask: Ask, need: Need, bucket: int, options: Sequence[Option]) -> list[int]:
        """Of scripts/admit.lua, once all spending is known. Raises LimitsUnavailable, RedisAway."""
        asked = asked_of(need, bucket, options)
        for _ in range(SEED_TRIES):
            reply: list[int] = await self.line.run_packed(ask.script, asked)
            if reply[0] != UNSEEDED:
                return reply
            await self._seed_all([ask.owners[position - 1].claim for position in reply[1:]], need)
        raise RedisAway("it forgets what it is told")

    def settled(self, grant: RedisGrant, record: Record | None, cost: int) -> None:
        self._open.pop(grant.need.id, None)
        if record is None:
            return
        if not grant.told:
            if charges := grant.charges(cost):
                self._owed.add(record, charges)
            return
        self._ledger.add(record)
        if grant.need.budgeted:
            self._lately.add(record)

    # Budgets whose spending Redis does not know

    async def _seed_all(self, claims: list[Claim], need: Need) -> None:
        """Raises LimitsUnavailable, RedisAway."""
        for claim in claims:
            owner = self.owners.of(claim, need.at)
            await self._seeding.once(claim, owner.start, partial(self._seed, owner))

    async def _seed(self, owner: RedisOwner) -> None:
        if (young := YOUNG_SECONDS - self.line.steady_for) > 0:
            await asyncio.sleep(young)
        keys, ends = [f"{owner.base}:b:{owner.period}"], owner.ends or ""
        pending: list[bytes] = await self.line.run(SEED, keys, ends, "", "")
        for tries_left in reversed(range(SEED_TRIES)):
            if not pending:
                return
            calls = [call.decode() for call in pending if call]
            spent = await self._seeding.spent(owner.claim, owner.start, owner.end, calls)
            insist = "" if tries_left else "1"
            pending = await self.line.run(SEED, keys, ends, spent, insist, *calls)

    # While Redis is away

    def recount(self, number: int) -> None:
        """In Redis it was done by whoever corrected the costs."""
        self.recounted = number
        if self._local is not None:
            self._local.recount(number)

    async def _take_here(
        self, grant: RedisGrant, shared: tuple[Claim, ...], options: Sequence[Option], need: Need
    ) -> None:
        if self._local is None:
            self._local = MemoryAdmission(self._spent)
            for recent in self._recent:
                for owner in recent.owners:
                    self._local.count_past(owner.claim, recent.requests, recent.tokens, recent.at)
        grant.hold_locally(await self._local.admit(shared, options, need))

    def _remember(self, grant: RedisGrant) -> None:
        now = time.monotonic()
        grant.renew_at = now + self._renew_after
        self._open[grant.need.id] = grant
        held = grant.held
        if not held.counted:
            return
        recent = held.recent
        if recent is None or now >= recent.full_at or recent.told is not grant.told:
            recent = self._begin_recent(now, held, told=grant.told)
        recent.at = now
        recent.requests += 1
        recent.tokens += grant.need.tokens
        grant.recent = recent

    def _begin_recent(self, now: float, held: Held, *, told: bool) -> Recent:
        while self._recent and self._recent[0].at < now - MINUTE - BUCKET:
            self._recent.popleft()
        held.recent = recent = Recent(now, now + BUCKET, held.counted, told=told)
        self._recent.append(recent)
        return recent

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
            await asyncio.sleep(self._renew_after / 2)
            now = time.monotonic()
            if self.line.link is None:
                continue
            for grant in list(self._open.values()):
                if grant.renew_at <= now:
                    grant.renew_at = now + self._renew_after
                    self.record(grant.hold_record())


def _window_records(recent: Recent, now: float) -> list[Record]:
    age_ms = int((now - recent.at) * 1000)
    return [
        (
            "W",
            owner.base,
            age_ms,
            recent.requests if owner.claim.limits.rpm is not None else 0,
            recent.tokens if owner.claim.limits.tpm is not None else 0,
        )
        for owner in recent.owners
        if age_ms < MINUTE * 1000
    ]
