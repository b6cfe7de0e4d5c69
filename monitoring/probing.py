"""Active health checks: asks every provider that is due, all at once."""

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
from django.db import transaction

from proxy.dialects import DIALECTS
from routing.compiler import provider_entry
from routing.credentials import CredentialUnreadable
from routing.models import Provider, ProviderHealth
from routing.publishing import publish_change

logger = logging.getLogger(__name__)

Status = ProviderHealth.Status


@dataclass(frozen=True, slots=True)
class Result:
    provider: Provider
    latency_ms: float
    problem: str = ""  # empty: the probe was answered with 2xx


def probe_due(now: datetime) -> int:
    """Probe the enabled providers whose interval has passed; returns how many."""
    due = [provider for provider in _watched() if _is_due(provider, now)]
    return probe(due, now)


def probe(providers: list[Provider], now: datetime) -> int:
    """Probe these at once and record what was found."""
    for result in asyncio.run(_ask_all(providers)) if providers else []:
        record(result, now)
    return len(providers)


def _watched() -> list[Provider]:
    return list(Provider.objects.enabled().filter(health_check_enabled=True).select_related("health"))


def _is_due(provider: Provider, now: datetime) -> bool:
    health = getattr(provider, "health", None)
    if health is None:
        return True
    # Half a second of grace: a tick that comes a moment early must not cost a whole further tick.
    return now - health.checked_at >= timedelta(seconds=provider.health_interval - 0.5)


async def _ask_all(providers: list[Provider]) -> list[Result]:
    async with httpx.AsyncClient(follow_redirects=False) as client:
        return list(await asyncio.gather(*(_ask(client, provider) for provider in providers)))


async def _ask(client: httpx.AsyncClient, provider: Provider) -> Result:
    started = time.perf_counter()
    try:
        # The time-outs of httpx are per step; the setting is for the whole probe.
        async with asyncio.timeout(provider.health_timeout):
            response = await client.get(provider.health_url, headers=_headers(provider), timeout=None)
        problem = "" if response.is_success else f"status {response.status_code}"
    except TimeoutError:
        problem = f"no answer within {provider.health_timeout:g} s"
    except CredentialUnreadable as error:
        problem = str(error)
    except httpx.HTTPError as error:
        problem = f"{type(error).__name__}: connection failed"
    return Result(provider, (time.perf_counter() - started) * 1000, problem)


def _headers(provider: Provider) -> dict[str, str]:
    """The same as live calls send, so that a probe fails where they would."""
    entry = provider_entry(provider)
    headers = dict(DIALECTS[entry.dialect].headers(entry, entry.credential))
    del headers["content-type"]
    return headers


@transaction.atomic
def record(result: Result, now: datetime) -> None:
    """Store the result; publish a new table only where the status turned."""
    if not Provider.objects.filter(pk=result.provider.pk).exists():
        return  # deleted while it was probed
    before = ProviderHealth.objects.filter(pk=result.provider.pk).first()
    failures = (before.failures if before else 0) + 1 if result.problem else 0
    status = _status(result, failures, before)
    turned = before is None or before.status != status
    ProviderHealth.objects.update_or_create(
        provider=result.provider,
        defaults={
            "status": status,
            "checked_at": now,
            "changed_at": now if before is None or turned else before.changed_at,
            "latency_ms": round(result.latency_ms, 3),
            "failures": failures,
            "detail": result.problem[:300],
        },
    )
    if turned:
        news = logging.INFO if before is None and not result.problem else logging.WARNING
        logger.log(news, "provider %s is %s%s", result.provider.slug, status, _because(result.problem))
        publish_change()


def _because(problem: str) -> str:
    return f": {problem}" if problem else ""


def _status(result: Result, failures: int, before: ProviderHealth | None) -> str:
    if not result.problem:
        return Status.HEALTHY
    if failures >= result.provider.health_threshold:
        return Status.UNHEALTHY
    return before.status if before else Status.HEALTHY
