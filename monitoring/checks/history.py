"""What past checks found: uptime, latency, and how long it is kept."""

from datetime import datetime, timedelta

from django.conf import settings

from monitoring.models import HealthCheck, HealthTransition
from routing.models import ProviderHealth

TRANSITION_DAYS = 400
DELETE_ROWS = 5000  # at once, so that no lock is held for long


def prune(now: datetime) -> int:
    """Delete what is older than kept; returns how many rows."""
    deleted = 0
    oldest = now - timedelta(days=settings.HEALTH_HISTORY_DAYS)
    while ids := list(HealthCheck.objects.filter(at__lt=oldest).values_list("pk", flat=True)[:DELETE_ROWS]):
        deleted += HealthCheck.objects.filter(pk__in=ids).delete()[0]
    transitions = HealthTransition.objects.filter(at__lt=now - timedelta(days=TRANSITION_DAYS))
    return deleted + transitions.delete()[0]


def uptimes(provider_ids: list[int], now: datetime, days: int) -> dict[int, float]:
    """Percent of what is known of the last `days` in which a provider was not unhealthy, 0 to 100."""
    since = now - timedelta(days=days)
    rows = HealthTransition.objects.filter(provider__in=provider_ids).order_by("provider", "at")
    found: dict[int, list[HealthTransition]] = {}
    for row in rows:
        found.setdefault(row.provider_id, []).append(row)
    return {provider: _uptime(rows, since, now) for provider, rows in found.items()}


def _uptime(rows: list[HealthTransition], since: datetime, now: datetime) -> float:
    """A status holds until the next transition."""
    known = down = 0.0
    ends = [row.at for row in rows[1:]] + [now]
    for row, end in zip(rows, ends, strict=True):
        seconds = (end - max(row.at, since)).total_seconds()
        if seconds > 0 and row.after != ProviderHealth.Status.UNKNOWN:
            known += seconds
            down += seconds if row.after == ProviderHealth.Status.UNHEALTHY else 0.0
    return 100.0 * (1 - down / known) if known else 100.0


def latencies(
    provider_ids: list[int], now: datetime, hours: int = 24
) -> dict[int, list[tuple[datetime, float, bool]]]:
    """(when, milliseconds, whether it was good) of each check, oldest first."""
    rows = HealthCheck.objects.filter(provider__in=provider_ids, at__gte=now - timedelta(hours=hours))
    found: dict[int, list[tuple[datetime, float, bool]]] = {}
    for provider, at, ms, ok in rows.order_by("at").values_list("provider", "at", "latency_ms", "ok"):
        found.setdefault(provider, []).append((at, ms, ok))
    return found
