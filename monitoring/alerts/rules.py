"""What is wrong now: each rule finds its subjects anew, and remembers nothing."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Count, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from monitoring.alerts.models import Alert, AlertRule
from monitoring.background import heartbeats
from monitoring.background.models import Heartbeat
from monitoring.background.restarts import restarted
from monitoring.budgets.models import BudgetPeriod
from monitoring.budgets.periods import refresh
from monitoring.request_log.models import RequestLog
from routing.models import ApiKey, MaintenanceWindow, ProviderHealth

ERROR_MINUTES = 5
LEAST_REQUESTS = 20  # in that time, below which the error rate says nothing


@dataclass(frozen=True, slots=True)
class Finding:
    """`subject` is what it is about: while one alert of it is open there is no second."""

    subject: str
    summary: str
    evidence: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False  # noted, not told: another one says more


_OF_MARKS = {
    ProviderHealth.Mark.CREDENTIAL.value: "refuses the gateway's credential; requests go there as before",
    ProviderHealth.Mark.UNPAID.value: "does not serve the gateway's account, which is unpaid",
}
Rule = Callable[[datetime, AlertRule], Iterator[Finding]]


def provider_down(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    """Or of no use to the gateway's account. Not in maintenance, which is meant to be quiet."""
    resting = MaintenanceWindow.objects.running(now).values("provider")
    watched = ProviderHealth.objects.filter(provider__enabled=True, provider__health_check_enabled=True)
    ill = watched.filter(Q(status=ProviderHealth.Status.UNHEALTHY) | ~Q(mark=""))
    for health in ill.exclude(provider__in=resting).select_related("provider"):
        slug = health.provider.slug
        evidence = {
            "since": health.changed_at.isoformat(),
            "failures": health.failures,
            "detail": health.detail,
        }
        if health.status == ProviderHealth.Status.UNHEALTHY:
            yield Finding(slug, f"Provider {slug} is down: {health.detail}"[:300], evidence)
        else:
            text = f"Provider {slug} answers, but {_OF_MARKS[health.mark]} ({health.detail[:100]})"
            yield Finding(f"{slug} {health.mark}", text[:300], evidence | {"mark": health.mark})


def error_rate(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    """Of all requests of the last minutes; copies to shadow targets are nobody's."""
    recent = RequestLog.objects.filter(received_at__gte=now - timedelta(minutes=ERROR_MINUTES), shadow=False)
    found = recent.aggregate(all=Count("pk"), failed=Count("pk", filter=Q(status__gte=500)))
    if found["all"] >= LEAST_REQUESTS and (percent := 100 * found["failed"] / found["all"]) >= rule.threshold:
        text = f"{percent:.0f} % of {found['all']:,} requests in {ERROR_MINUTES} minutes failed"
        yield Finding("all", text, {"requests": found["all"], "failed": found["failed"]})


def latency(now: datetime, rule: AlertRule) -> Iterator[Finding]:
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
            if p95 >= rule.threshold:
                text = f"5 % of {group['calls']:,} answers of {group['route']} took {p95:,.0f} ms or more"
                yield Finding(group["route"], text[:300], {"p95_ms": p95, "requests": group["calls"]})


def budget(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    """A subject for each percentage that is reached, in each period; only the highest is told."""
    refresh(now)
    for row in BudgetPeriod.objects.filter(closed_at=None, used_percent__gte=min(rule.percentages)):
        reached = [percent for percent in rule.percentages if row.used_percent >= percent]
        name = f"{row.kind} {row.name}"
        text = f"{name} has used {row.used_percent:.0f} % of its budget ({row.period})"
        evidence = {"used_usd": row.spent_nano / 1e9, "budget_usd": row.limit_nano / 1e9}
        period = f"{int(row.starts_at.timestamp())}"
        for percent in reversed(reached):
            subject = f"{row.kind} {row.owner_id} {row.name} {period} {percent:g} %"
            yield Finding(subject[-200:], text[:300], evidence, quiet=percent != reached[-1])


def backlog(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    fresh = now - timedelta(seconds=heartbeats.STALLED_SECONDS)
    for row in Heartbeat.objects.filter(component=heartbeats.SHIPPER, at__gt=fresh):
        megabytes = row.details.get("backlog_bytes", 0) / 1e6
        if megabytes >= rule.threshold:
            text = f"{megabytes:.1f} MB of the journal on {row.instance} are not in the database yet"
            yield Finding(row.instance, text, {"megabytes": round(megabytes, 3)})


def stalled(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    """Also parts of `make serve` that ended by themselves, until they have lived for a minute."""
    opened = Alert.objects.filter(rule__kind="stalled", ended_at=None).values_list("subject", flat=True)
    said = heartbeats.stalled(now)
    # An alert that was open before this process's start is over with a sign of life, not before.
    said |= {name: text for name, text in heartbeats.silent(now).items() if name in opened}
    said |= restarted(Path(settings.PARTS_DIR), now.timestamp())
    for component, text in said.items():
        yield Finding(component, text[0].upper() + text[1:])


def key_expiring(now: datetime, rule: AlertRule) -> Iterator[Finding]:
    soon = now + timedelta(days=rule.threshold)
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

ONCE = {"budget"}
"""Kinds that are told once for each subject: not again when it comes back, nor when it is over."""

THRESHOLDS = {"error_rate": 10.0, "latency": 30_000.0, "budget": 80.0, "backlog": 50.0, "key_expiring": 7.0}
"""What a rule starts with, in the unit that its kind names."""
STEPS = {"budget": "80, 100"}
REMINDERS = {"budget": 0}
"""Minutes that a rule starts with, where it is not AlertRule's default."""
