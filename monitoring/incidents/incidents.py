"""Incidents follow what was recorded: a provider that went down, an alert about all requests."""

from datetime import datetime, timedelta

from monitoring.incidents.models import Incident
from routing.models import MaintenanceWindow, ModelRoute, Provider

SAME_ONE = timedelta(minutes=10)  # so soon after its end, a new fault is the same incident
KEPT = timedelta(days=400)
DELETE_ROWS = 1000  # at once, so that no lock is held for long
_OF_ALERTS = {"error_rate": "More requests than usual fail", "latency": "Answers are slower than usual"}


def provider_turned(provider: Provider, at: datetime, *, down: bool) -> None:
    """In the transaction that records it."""
    last = Incident.objects.filter(provider=provider).first()
    if not down:
        Incident.objects.filter(provider=provider, ended_at=None).update(ended_at=at)
    elif last is not None and (last.ended_at is None or last.ended_at > at - SAME_ONE):
        Incident.objects.filter(pk=last.pk).update(ended_at=None)
    elif MaintenanceWindow.objects.running(at).filter(provider=provider).exists():
        return  # the status page tells of the window
    elif routes := _routes_of(provider):
        Incident.objects.create(
            title=_title(routes), started_at=at, provider=provider, routes=[route.name for route in routes]
        )


def _routes_of(provider: Provider) -> list[ModelRoute]:
    """That it serves; copies to shadow targets are nobody's."""
    served = ModelRoute.objects.filter(
        enabled=True, targets__provider=provider, targets__enabled=True, targets__shadow_percent=None
    )
    return list(served.distinct().order_by("name"))


def _title(routes: list[ModelRoute]) -> str:
    names = ", ".join(route.name for route in routes[:3])
    more = f" and {len(routes) - 3} more" if len(routes) > 3 else ""
    return f"Reduced availability of {names}{more}"[:200]


def alert_turned(kind: str, alert_id: int, at: datetime, *, over: bool) -> None:
    """In the transaction that records it."""
    if over:
        Incident.objects.filter(alert_id=alert_id, ended_at=None).update(ended_at=at)
    elif title := _OF_ALERTS.get(kind):
        Incident.objects.create(title=title, started_at=at, alert_id=alert_id)


def end_left(now: datetime) -> int:
    """End those whose provider is watched no more, as no check will; how many there were."""
    watched = Provider.objects.enabled().filter(health_check_enabled=True)
    of_providers = Incident.objects.filter(provider__isnull=False, ended_at=None)
    return of_providers.exclude(provider__in=watched).update(ended_at=now)


def prune(now: datetime) -> int:
    """Delete what ended long ago; how many there were."""
    deleted, old = 0, Incident.objects.filter(ended_at__lt=now - KEPT).order_by("pk")
    while ids := list(old.values_list("pk", flat=True)[:DELETE_ROWS]):
        deleted += Incident.objects.filter(pk__in=ids).delete()[0]
    return deleted
