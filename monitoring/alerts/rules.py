"""What is wrong now: each rule finds its subjects anew, and remembers nothing."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from monitoring import heartbeats
from monitoring.models import Heartbeat, RequestLog
from monitoring.spending import spent
from routing.compiler import claims_of
from routing.models import ApiKey, MaintenanceWindow, ModelRoute, Provider, ProviderHealth, RouteTarget, Team
from routing.periods import Periods

ERROR_MINUTES = 5
LEAST_REQUESTS = 20  # in that time, below which the error rate says nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is what it is about: while one alert of it is open there is no second."""

    subject: str
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)


Rule = Callable[[datetime, float], Iterator[Finding]]


def provider_down(now: datetime, threshold: float) -> Iterator[Finding]:
    """Not in maintenance, which is meant to be quiet."""
    resting = MaintenanceWindow.objects.running(now).values("provider")
    ill = ProviderHealth.objects.filter(
        status=ProviderHealth.Status.UNHEALTHY, provider__enabled=True, provider__health_check_enabled=True
    )
    for health in ill.exclude(provider__in=resting).select_related("provider"):
        slug = health.provider.slug
        evidence = {
            "since": health.changed_at.isoformat(),
            "failures": health.failures,
            "detail": health.detail,
        }
        yield Finding(slug, f"Provider {slug} is down: {health.detail}"[:300], evidence)


def error_rate(now: datetime, threshold: float) -> Iterator[Finding]:
    """Of all requests of the last minutes; copies to shadow targets are nobody's."""
    recent = RequestLog.objects.filter(received_at__gte=now - timedelta(minutes=ERROR_MINUTES), shadow=False)
    found = recent.aggregate(all=Count("pk"), failed=Count("pk", filter=Q(status__gte=500)))
    if found["all"] >= LEAST_REQUESTS and (percent := 100 * found["failed"] / found["all"]) >= threshold:
        text = f"{percent:.0f} % of {found['all']:,} requests in {ERROR_MINUTES} minutes failed"
        yield Finding("all", text, {"requests": found["all"], "failed": found["failed"]})


def latency(now: datetime, threshold: float) -> Iterator[Finding]:
    """By route, of the answers of the last minutes: to the first byte of a stream, else to the end."""
    recent = RequestLog.objects.filter(
        received_at__gte=now - timedelta(minutes=ERROR_MINUTES), shadow=False, outcome="answered"
    )
    waited = recent.annotate(waited=Coalesce("ttft_ms", "total_ms"))
    for group in recent.order_by().values("route").annotate(calls=Count("pk")):
        if group["calls"] >= LEAST_REQUESTS:
            place = math.ceil(0.95 * group["calls"]) - 1
            of_route = waited.filter(route=group["route"]).order_by("waited")
            p95 = of_route.values_list("waited", flat=True)[place]
            if p95 >= threshold:
                text = f"5 % of {group['calls']:,} answers of {group['route']} took {p95:,.0f} ms or more"
                yield Finding(group["route"], text[:300], {"p95_ms": p95, "requests": group["calls"]})


def budget(now: datetime, threshold: float) -> Iterator[Finding]:
    """The subject names the period, so that the next one is a new alert."""
    for model in (ApiKey, Team, ModelRoute, RouteTarget, Provider):
        for row in model.objects.filter(budget_usd__isnull=False):
            yield from _budget_of(row, now, threshold)


def _budget_of(row: Any, now: datetime, threshold: float) -> Iterator[Finding]:
    [claim] = claims_of(row)
    assert claim.budget is not None
    start, end = Periods().of(claim.budget, now.timestamp())
    used = spent(claim, start, end)
    percent = 100 * used / claim.budget.limit_nano if claim.budget.limit_nano else 100.0
    if percent >= threshold:
        name = f"{claim.kind} {claim.name}"
        text = f"{name} has used {percent:.0f} % of its budget ({claim.budget.period})"
        evidence = {"used_usd": used / 1e9, "budget_usd": claim.budget.limit_nano / 1e9}
        yield Finding(f"{name} {int(start or 0)}"[:200], text[:300], evidence)


def backlog(now: datetime, threshold: float) -> Iterator[Finding]:
    fresh = now - timedelta(seconds=heartbeats.STALLED_SECONDS)
    for row in Heartbeat.objects.filter(component=heartbeats.SHIPPER, at__gt=fresh):
        megabytes = row.details.get("backlog_bytes", 0) / 1e6
        if megabytes >= threshold:
            text = f"{megabytes:.1f} MB of the journal on {row.instance} are not in the database yet"
            yield Finding(row.instance, text, {"megabytes": round(megabytes, 3)})


def stalled(now: datetime, threshold: float) -> Iterator[Finding]:
    for component, text in heartbeats.stalled(now).items():
        yield Finding(component, text[0].upper() + text[1:])


def key_expiring(now: datetime, threshold: float) -> Iterator[Finding]:
    soon = now + timedelta(days=threshold)
    for key in ApiKey.objects.filter(enabled=True, expires_at__gt=now, expires_at__lte=soon):
        assert key.expires_at is not None
        text = f"API key {key.name} expires at {timezone.localtime(key.expires_at):%Y-%m-%d %H:%M} UTC"
        yield Finding(f"{key.pk} {key.name}"[:200], text[:300])


RULES: dict[str, Rule] = {
    "provider_down": provider_down,
    "error_rate": error_rate,
    "latency": latency,
    "budget": budget,
    "backlog": backlog,
    "stalled": stalled,
    "key_expiring": key_expiring,
}
EVERY = {
    "provider_down": 5,
    "backlog": 15,
    "stalled": 15,
    "error_rate": 30,
    "latency": 30,
    "budget": 60,
    "key_expiring": 600,
}
"""Seconds between two looks."""

THRESHOLDS = {"error_rate": 10.0, "latency": 30_000.0, "budget": 80.0, "backlog": 50.0, "key_expiring": 7.0}
"""What a rule starts with, in the unit that its kind names."""
