"""How available each route was on each day: by its requests, and by its providers' checks where few came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from django.db.models import Q, Sum
from django.db.models.functions import TruncDate

from monitoring.health.models import HealthTransition
from monitoring.health.spans import Span, common, length, merged
from monitoring.request_log.models import RequestLog
from monitoring.usage.models import UsageHour
from routing.models import ProviderHealth

DAYS = 90
LEAST_REQUESTS = 20  # of a day, below which one failure would say too much

# What callers are to blame for themselves counts neither way.
_FAILED = (
    Q(status__gte=500)
    | Q(outcome__in=(RequestLog.Outcome.UPSTREAM_BROKEN, RequestLog.Outcome.FAILED))
    | Q(outcome=RequestLog.Outcome.UPSTREAM_FAILED, status=429)
)

Traffic = dict[str, dict[date, tuple[int, int]]]
"""By route and day: requests that were answered or failed, and how many of them failed."""


@dataclass(slots=True)
class History:
    """A provider's: when checks knew of it, and when they said unhealthy."""

    known: list[Span] = field(default_factory=list)
    down: list[Span] = field(default_factory=list)


def days_until(now: datetime) -> list[date]:
    today = now.astimezone(UTC).date()
    return [today - timedelta(days=age) for age in range(DAYS - 1, -1, -1)]


def traffic(first: date, last: date) -> Traffic:
    """Days are whole ones (UTC), the last one included."""
    start, end = _begin(first), _begin(last + timedelta(days=1))
    rows = UsageHour.objects.filter(hour__gte=start, hour__lt=end, shadow=False).order_by()
    sums = rows.annotate(day=TruncDate("hour", tzinfo=UTC)).values("route", "day")
    counted = sums.annotate(
        good=Sum("requests", filter=Q(outcome=RequestLog.Outcome.ANSWERED)),
        failed=Sum("requests", filter=_FAILED),
    )
    found: Traffic = {}
    for route, day, good, failed in counted.values_list("route", "day", "good", "failed"):
        found.setdefault(route, {})[day] = (good or 0) + (failed or 0), failed or 0
    return found


def histories(provider_ids: Iterable[int], now: datetime) -> dict[int, History]:
    rows = HealthTransition.objects.filter(provider__in=list(provider_ids)).order_by("provider", "at")
    turns: dict[int, list[tuple[datetime, str]]] = {}
    for provider, at, after in rows.values_list("provider", "at", "after"):
        turns.setdefault(provider, []).append((at, after))
    return {provider: _history(found, now) for provider, found in turns.items()}


def _history(turns: list[tuple[datetime, str]], now: datetime) -> History:
    """A status holds until the next turn."""
    history = History()
    ends = [at for at, _ in turns[1:]] + [now]
    for (start, status), end in zip(turns, ends, strict=True):
        if status != ProviderHealth.Status.UNKNOWN:
            history.known.append((start, end))
        if status == ProviderHealth.Status.UNHEALTHY:
            history.down.append((start, end))
    return History(merged(history.known), merged(history.down))


def together(of_providers: list[History]) -> History:
    """Of a route: down is when all its providers were, known is when any was."""
    if not of_providers:
        return History()
    down = of_providers[0].down
    for other in of_providers[1:]:
        down = common(down, other.down)
    return History(merged(span for one in of_providers for span in one.known), down)


def by_checks(history: History, day: date) -> float | None:
    """Percent; None where nothing is known of that day."""
    within = _begin(day), _begin(day + timedelta(days=1))
    known = length(history.known, within)
    return 100 * (1 - length(history.down, within) / known) if known else None


def of_day(counts: Mapping[date, tuple[int, int]], history: History, day: date) -> float | None:
    requests, failed = counts.get(day, (0, 0))
    if requests >= LEAST_REQUESTS:
        return 100 * (1 - failed / requests)
    return by_checks(history, day)


def _begin(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
