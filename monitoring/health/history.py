"""What past checks found: uptime, latency, and how long it is kept."""

from collections.abc import Collection
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef

from monitoring.health.models import HealthCheck, HealthTransition
from routing.models import ProviderHealth

TRANSITION_DAYS = 400
DELETE_ROWS = 5000  # at once, so that no lock is held for long


def prune(now: datetime) -> int:
    """Delete what is older than kept; returns how many rows."""
    deleted = 0
    oldest = now - timedelta(days=settings.HEALTH_HISTORY_DAYS)
    while ids := list(HealthCheck.objects.filter(at__lt=oldest).values_list("pk", flat=True)[:DELETE_ROWS]):
        deleted += HealthCheck.objects.filter(pk__in=ids).delete()[0]
    old = HealthTransition.objects.filter(at__lt=now - timedelta(days=TRANSITION_DAYS))
    newer = HealthTransition.objects.filter(provider=OuterRef("provider"), at__gt=OuterRef("at"))
    # The last one stays: it says since when a provider is as it is.
    while ids := list(old.filter(Exists(newer)).values_list("pk", flat=True)[:DELETE_ROWS]):
        deleted += HealthTransition.objects.filter(pk__in=ids).delete()[0]
    return deleted


def uptimes(provider_ids: list[int], now: datetime, days: Collection[int]) -> dict[int, dict[int, float]]:
    """By provider and by days: percent of what is known of them in which it was not unhealthy, 0 to 100."""
    rows = HealthTransition.objects.filter(provider__in=provider_ids).order_by("provider", "at")
    turns: dict[int, list[tuple[datetime, str]]] = {}
    for provider, at, after in rows.values_list("provider", "at", "after"):
        turns.setdefault(provider, []).append((at, after))
    return {
        provider: {number: _uptime(found, now - timedelta(days=number), now) for number in days}
        for provider, found in turns.items()
    }


def _uptime(turns: list[tuple[datetime, str]], since: datetime, now: datetime) -> float:
    """A status holds until the next turn."""
    known = down = 0.0
    ends = [at for at, _ in turns[1:]] + [now]
    for (at, status), end in zip(turns, ends, strict=True):
        seconds = (end - max(at, since)).total_seconds()
        if seconds > 0 and status != ProviderHealth.Status.UNKNOWN:
            known += seconds
            down += seconds if status == ProviderHealth.Status.UNHEALTHY else 0.0
    return 100.0 * (1 - down / known) if known else 100.0
