"""Runs claimed checks side by side in a thread of this process; nobody waits for a provider that hangs."""

import asyncio
import logging
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime, timedelta

import httpx
from django.db import close_old_connections
from django.utils import timezone

from monitoring.health.probe import Result, ask, new_client
from monitoring.health.recording import record
from monitoring.health.schedule import Claim, claim_due, postpone, with_health
from routing.models import Provider

logger = logging.getLogger(__name__)


class Prober:
    """An event loop in a daemon thread; what is open when the process ends is checked an interval later."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._client: httpx.AsyncClient | None = None
        # One thread: results are small, and SQLite takes one writer anyhow.
        self._recorder = ThreadPoolExecutor(1, thread_name_prefix="check-recorder")
        threading.Thread(target=self._loop.run_forever, name="checks", daemon=True).start()

    def submit(self, claims: Iterable[Claim]) -> "list[Future[None]]":
        return [asyncio.run_coroutine_threadsafe(self._check(claim), self._loop) for claim in claims]

    async def _check(self, claim: Claim) -> None:
        await asyncio.sleep((claim.at - timezone.now()).total_seconds())
        if self._client is None:
            self._client = new_client()
        try:
            result = await ask(self._client, claim.provider, timezone.now())
            await self._loop.run_in_executor(self._recorder, _record_on_own_connection, result)
        except Exception:
            logger.exception("the check of provider %s failed in the gateway", claim.provider.slug)


def _record_on_own_connection(result: Result) -> None:
    close_old_connections()
    record(result)


class _Running:
    prober: Prober | None = None
    turn = threading.Lock()


def prober() -> Prober:
    """This process's one; a fork has a new one."""
    with _Running.turn:
        if _Running.prober is None or _Running.prober.process != os.getpid():
            _Running.prober = Prober()
        return _Running.prober


def tick(now: datetime, horizon: timedelta) -> int:
    """Claim what is due until now + horizon and let it run; returns how many, without waiting for them."""
    claims = claim_due(now, horizon)
    if claims:
        prober().submit(claims)
    return len(claims)


def check_now(providers: list[Provider]) -> list[tuple[Result, str]]:
    """Check these at once and wait: (result, the status after it) of each. At most their health_timeout."""
    now = timezone.now()
    providers = with_health(Provider.objects.filter(pk__in=[provider.pk for provider in providers]))
    postpone(providers, now)
    return [(result, record(result)) for result in asyncio.run(_ask_all(providers, now))]


async def _ask_all(providers: list[Provider], now: datetime) -> list[Result]:
    async with new_client() as client:
        return list(await asyncio.gather(*(ask(client, provider, now) for provider in providers)))
