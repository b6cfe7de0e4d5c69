"""Limits counted in Redis: for any number of web processes, one script call per request."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Sequence
from functools import partial

from proxy.admission.base import Candidate, Demand, FreeGrant, Grant, Spent
from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis.calls import NEW, AdmitCall, AdmitCalls, packed_demand
from proxy.admission.redis.client import RedisClient
from proxy.admission.redis.connection import RedisAway, RedisConnection, RedisRefused
from proxy.admission.redis.grant import RedisGrant
from proxy.admission.redis.holds import Holds, Recent
from proxy.admission.redis.outage import SettledInOutage, SettledLately
from proxy.admission.redis.owners import RedisOwner, RedisOwners
from proxy.admission.redis.scripts import SEED, UNSEEDED, Record
from proxy.admission.redis.settlements import Settlements
from proxy.admission.seeding import Seeding
from proxy.admission.window import BUCKET, MINUTE
from proxy.errors import LimitsUnavailable
from routing.table import LimitOwner

logger = logging.getLogger(__name__)

YOUNG_SECONDS = 2.0
"""So long after Redis came back others may still have to report: they reconnect in that time."""

SEED_TRIES = 5
CATCH_UPS = 3
FLUSH_SECONDS = 5.0
NOT_RUN = [UNSEEDED]  # a reply, where there was none


class RedisAdmission:
    """`without` says what happens while Redis is away: open counts in this process, closed refuses.

    `timeout` (of a Redis command) and `lease` (of a hold whose worker died) are in seconds.
    """

    def __init__(self, url: str, spent: Spent, *, timeout: float, without: str, lease: float) -> None:
        self.client = RedisClient(url, timeout, self._on_up)
        self.lease_ms = int(lease * 1000)
        self._renew_after = lease / 3
        self._without = without
        self.owners = RedisOwners()
        self.admit_calls = AdmitCalls(self.owners, self.lease_ms)
        self._spent = spent
        self.recounted = 0
        self._seeding = Seeding(spent)
        self._settlements = Settlements(self.lease_ms)
        self._open: dict[str, RedisGrant] = {}
        self._recent: deque[Recent] = deque()
        self._local: MemoryAdmission | None = None
        self._outage = SettledInOutage()
        self._lately = SettledLately()
        self._renewer: asyncio.Task[None] | None = None

    def at_once(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> None:
        """Nothing is known without asking."""

    async def admit(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> Grant:
        admit_call = self.admit_calls.of(shared, candidates, demand)
        if not admit_call.owners:
            return FreeGrant()
        if self._renewer is None:
            await self.start()
        grant = RedisGrant(self, shared, candidates, demand, admit_call)
        try:
            connection = self.client.connection
            packed = admit_call.script.by_sha(packed_demand(demand, NEW, candidates))
            try:
                # The connection's own future: each coroutine in between would be passed again with it.
                reply = NOT_RUN if connection is None else await connection.send(packed)
            except RedisRefused:
                reply = NOT_RUN  # perhaps it only doesn't know the script
            if reply[0] == UNSEEDED:
                reply = await self.reply(admit_call, demand, NEW, candidates)
            grant.hold(reply)
        except RedisAway as away:
            self.record(admit_call.all_holds().ended(demand.id, 0))
            self.check_open(away)
            await self._take_here(grant, shared, candidates, demand)
        except asyncio.CancelledError:
            self.record(admit_call.all_holds().ended(demand.id, 0))
            raise
        self._remember(grant)
        if not grant.reported and self.client.connection is not None:
            self._report_missing()  # Redis came back while this call was let through without it
        return grant

    async def start(self) -> None:
        """Connect, if Redis is there; its being away stops no start."""
        if self._renewer is None:
            self._renewer = asyncio.create_task(self._renew())
        await self.client.start()

    def state(self) -> dict[str, object]:
        kept = "in Redis"
        if self.client.connection is None:
            kept = "in this process" if self._without == "open" else "nowhere: limited calls are refused"
        return {"kept": kept, "problem": "Redis is away" if self.client.problem else None}

    async def aclose(self) -> bool:
        connection = self.client.connection
        if connection is not None and len(self._settlements):
            with contextlib.suppress(RedisAway, RedisRefused, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._settlements.flush(connection)
        missing = len(self._settlements) + len(self._outage) + len(self._open)
        if missing:
            logger.error("%d records of limits never reached Redis; the log has them", missing)
        if self._renewer is not None:
            self._renewer.cancel()
        await self.client.stop()
        return not missing

    # What a grant asks of its store

    def check_open(self, away: RedisAway) -> None:
        if self._without != "open":
            raise LimitsUnavailable("Limits can't be checked now: try again.", retry_after=1) from away

    def record(self, record: Record | None) -> None:
        if record is not None:
            self._settlements.add(record)

    async def reply(
        self, admit_call: AdmitCall, demand: Demand, bucket: int, candidates: Sequence[Candidate]
    ) -> list[int]:
        """Of lua/admit.lua, once all spending is known. Raises LimitsUnavailable, RedisAway."""
        packed = packed_demand(demand, bucket, candidates)
        for _ in range(SEED_TRIES):
            reply: list[int] = await self.client.run_packed(admit_call.script, packed)
            if reply[0] != UNSEEDED:
                return reply
            await self._seed_all(
                [admit_call.owners[position - 1].limit_owner for position in reply[1:]], demand
            )
        raise RedisAway("it forgets what it gets")

    def settled(self, grant: RedisGrant, record: Record | None, cost: int) -> None:
        self._open.pop(grant.demand.id, None)
        if record is None:
            return
        if not grant.reported:
            if charges := grant.charges(cost):
                self._outage.add(record, charges)
            return
        self._settlements.add(record)
        if grant.demand.budgeted:
            self._lately.add(record)

    # Budgets whose spending Redis does not know

    async def _seed_all(self, limit_owners: list[LimitOwner], demand: Demand) -> None:
        """Raises LimitsUnavailable, RedisAway."""
        for limit_owner in limit_owners:
            owner = self.owners.of(limit_owner, demand)
            await self._seeding.once(limit_owner, owner.start, partial(self._seed, owner))

    async def _seed(self, owner: RedisOwner) -> None:
        if (young := YOUNG_SECONDS - self.client.steady_for) > 0:
            await asyncio.sleep(young)
        keys, ends = [f"{owner.base}:b:{owner.period}"], owner.ends or ""
        pending: list[bytes] = await self.client.run(SEED, keys, ends, "", "")
        for tries_left in reversed(range(SEED_TRIES)):
            if not pending:
                return
            calls = [call.decode() for call in pending if call]
            spent = await self._seeding.spent(owner.limit_owner, owner.start, owner.end, calls)
            insist = "" if tries_left else "1"
            pending = await self.client.run(SEED, keys, ends, spent, insist, *calls)

    # While Redis is away

    def recount(self, number: int) -> None:
        """In Redis it was done by whoever corrected the costs."""
        self.recounted = number
        if self._local is not None:
            self._local.recount(number)

    async def _take_here(
        self,
        grant: RedisGrant,
        shared: tuple[LimitOwner, ...],
        candidates: Sequence[Candidate],
        demand: Demand,
    ) -> None:
        if self._local is None:
            self._local = MemoryAdmission(self._spent)
            for recent in self._recent:
                for owner in recent.owners:
                    self._local.count_past(owner.limit_owner, recent.requests, recent.tokens, recent.at)
        grant.hold_locally(await self._local.admit(shared, candidates, demand))

    def _remember(self, grant: RedisGrant) -> None:
        now = time.monotonic()
        grant.renew_at = now + self._renew_after
        self._open[grant.demand.id] = grant
        holds = grant.holds
        if not holds.counted:
            return
        recent = holds.recent
        if recent is None or now >= recent.full_at or recent.reported is not grant.reported:
            recent = self._begin_recent(now, holds, reported=grant.reported)
        recent.at = now
        recent.requests += 1
        recent.tokens += grant.demand.tokens
        grant.recent = recent

    def _begin_recent(self, now: float, holds: Holds, *, reported: bool) -> Recent:
        while self._recent and self._recent[0].at < now - MINUTE - BUCKET:
            self._recent.popleft()
        holds.recent = recent = Recent(now, now + BUCKET, holds.counted, reported=reported)
        self._recent.append(recent)
        return recent

    async def _on_up(self, connection: RedisConnection, lost_memory: bool) -> None:
        """Report to Redis what it does not know, before it is asked again."""
        self._settlements.connection = None
        for grant in self._open.values():
            grant.reported = False  # a lease may have ended meanwhile
        if lost_memory:
            for recent in self._recent:
                recent.reported = False
            for record in self._lately.again():
                self._settlements.add(record)
        for _ in range(CATCH_UPS):
            self._report_missing()
            if not len(self._settlements):
                break
            await self._settlements.flush(connection)
        # What came during the last flush follows at once, in front of all that comes later.
        self._settlements.connection = connection
        self._report_missing()
        self._local = None

    def _report_missing(self) -> None:
        """Add what was let through or spent without Redis."""
        now = time.monotonic()
        for recent in self._recent:
            if not recent.reported:
                recent.reported = True
                for record in _window_records(recent, now):
                    self._settlements.add(record)
        for record in self._outage.take():
            self._settlements.add(record)
        for grant in self._open.values():
            if not grant.reported:
                grant.reported = True
                self.record(grant.hold_record())

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_after / 2)
            now = time.monotonic()
            if self.client.connection is None:
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
            recent.requests if owner.limit_owner.limits.rpm is not None else 0,
            recent.tokens if owner.limit_owner.limits.tpm is not None else 0,
        )
        for owner in recent.owners
        if age_ms < MINUTE * 1000
    ]
