"""Builds the engine and all that it runs on; one per web process."""

import asyncio
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import close_old_connections, connection
from django.utils.module_loading import import_string

from proxy.access.client_address import Callers, TrustedProxies
from proxy.access.failed_auth import FailedAuth
from proxy.access.strangers import Strangers
from proxy.accounting.account import Accounting
from proxy.admission.base import Admission, Spent
from proxy.admission.limits_file import LimitsFile
from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis.admission import RedisAdmission
from proxy.admission.redis.failures import SharedFailures
from proxy.answers.abandoned import Abandoned, Bounds
from proxy.bodies.budget import BodyBudget
from proxy.bodies.unpacking import Unpacking
from proxy.breaker.exchange import make_exchange
from proxy.breaker.registry import Board
from proxy.breaker.sharing import Sharing
from proxy.calls.trace import Tracing
from proxy.content.writer import ContentWriter
from proxy.engine import Engine
from proxy.journal.writer import JournalWriter
from proxy.metrics.counters import Counters
from proxy.metrics.posting import Posting
from proxy.metrics.store import Store
from proxy.targets.selection import Chooser
from proxy.tracing import make_tracing
from proxy.upstreams.pool import Upstreams
from proxy.upstreams.warming import Warming
from routing import notices
from routing.live import TableKeeper


@dataclass(slots=True)
class Gateway:
    keeper: TableKeeper
    engine: Engine
    upstreams: Upstreams
    admission: Admission
    journal: JournalWriter
    contents: ContentWriter
    chooser: Chooser
    sharing: Sharing
    warming: Warming
    posting: Posting
    limits_file: LimitsFile
    bodies: BodyBudget  # of the data plane
    page_bodies: BodyBudget
    failed_auth: FailedAuth
    tracing: Tracing | None = None
    draining: bool = False

    def drain(self) -> None:
        """Told to stop: readiness says so from now on, while open calls are served to their end."""
        self.draining = True

    def start_threads(self) -> None:
        for thread in (self.keeper, self.sharing, self.posting, self.limits_file):
            thread.start()

    def stop_threads(self) -> None:
        """All of them but the journal's; again, it does nothing."""
        for thread in (self.keeper, self.sharing, self.limits_file, self.posting):
            thread.stop()

    async def aclose(self) -> None:
        self.drain()
        self.keeper.stop()
        self.sharing.stop()
        self.warming.stop()
        self.limits_file.stop()
        await self.engine.shadows.aclose()
        await self.engine.abandoned.aclose()
        await self.upstreams.aclose()
        self.engine.accounting.close_ended()
        settled = await self.admission.aclose()
        self.posting.stop()  # last: it tells what the others counted
        self.journal.close(settled=settled)
        self.contents.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.stop)


def build_gateway() -> Gateway:
    keeper = TableKeeper()
    upstreams = Upstreams(settings.UPSTREAM_TRANSPORT)
    admission = _admission()
    proxies = TrustedProxies(settings.TRUSTED_PROXIES)
    failed_auth = FailedAuth(settings.AUTH_FAILURES_PER_MINUTE, proxies)
    if isinstance(admission, RedisAdmission):
        failed_auth.tell = SharedFailures(admission.client, failed_auth.learn).count
    notices.add("rows", keeper.faults_notice)
    notices.add("limits", partial(_limits_notice, admission))
    journal = JournalWriter(Path(settings.JOURNAL_DIR))
    chooser = Chooser(Board(), random.Random())
    counters = Counters()
    contents = ContentWriter(Path(settings.CONTENT_DIR), settings.CONTENT_MAX_BYTES)
    callers, strangers = Callers(settings.CLIENT_DETAILS, proxies), Strangers(proxies)
    accounting = Accounting(journal, counters, settings.JOURNAL_WHEN_FULL, contents, strangers, callers)
    bounds = Bounds(settings.ABANDONED_SECONDS, settings.ABANDONED_BYTES, settings.ABANDONED_AT_ONCE)
    tracing, bodies = make_tracing(), BodyBudget(settings.BODY_BYTES_IN_FLIGHT)
    engine = Engine(
        keeper,
        upstreams,
        admission,
        accounting,
        chooser,
        failed_auth,
        Abandoned(bounds),
        tracing,
        Unpacking(settings.MAX_BODY_BYTES, bodies),
    )
    sharing = Sharing(chooser.board, make_exchange(), keeper)
    return Gateway(
        keeper=keeper,
        engine=engine,
        upstreams=upstreams,
        admission=admission,
        journal=journal,
        contents=contents,
        chooser=chooser,
        sharing=sharing,
        warming=Warming(upstreams, keeper),
        posting=Posting(
            Store(Path(settings.DATA_DIR) / "metrics"), counters, keeper, upstreams, journal, sharing, tracing
        ),
        limits_file=LimitsFile(Path(settings.LIMITS_FILE), admission),
        bodies=bodies,
        page_bodies=BodyBudget(settings.BODY_BYTES_IN_FLIGHT // 4),
        failed_auth=failed_auth,
        tracing=tracing,
    )


def _admission() -> Admission:
    spent = partial(_in_thread, import_string(settings.SPENT))
    if not settings.REDIS_URL:
        return MemoryAdmission(spent)
    return RedisAdmission(
        settings.REDIS_URL,
        spent,
        timeout=settings.REDIS_TIMEOUT_MS / 1000,
        without=settings.LIMITS_WITHOUT_REDIS,
        lease=settings.LIMITS_LEASE_SECONDS,
    )


def _limits_notice(admission: Admission) -> str:
    state = admission.state()
    return (
        f"{state['problem']}: limits are kept {state['kept']} until it is back." if state["problem"] else ""
    )


def _in_thread(spent: Spent, *question: Any) -> int:
    """On a connection of the thread that is still good, and not kept."""
    close_old_connections()
    try:
        return spent(*question)
    finally:
        connection.close()


class _Running:
    """Where the views find the gateway of their process."""

    gateway: Gateway | None = None


def running_gateway() -> Gateway:
    """The gateway of this process, started on first use where no ASGI lifespan did."""
    if _Running.gateway is None:
        _Running.gateway = build_gateway()
        _Running.gateway.start_threads()
    return _Running.gateway


def current_gateway() -> Gateway | None:
    """The gateway of this process, None where none was started."""
    return _Running.gateway


def stop_gateway() -> None:
    """Forget the gateway and end its threads; the next running_gateway() builds a new one."""
    gateway, _Running.gateway = _Running.gateway, None
    if gateway is not None:
        gateway.stop_threads()
