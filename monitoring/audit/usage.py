"""Usage by the hour against the rows it was made from."""

from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max, Min

from monitoring.audit import Difference, Differences
from monitoring.models import RequestLog, StaleHour, UsageHour
from monitoring.rollups import HOUR, NAMES, SUMS, hour_of, roll_up, usage_of


def differences(since: datetime | None = None) -> Differences:
    roll_up()
    for hour in _hours(since):
        found = list(_of_hour(hour))
        # Rows that came while the hour was compared have marked it.
        if found and not StaleHour.objects.filter(hour=hour).exists():
            yield from found


def _hours(since: datetime | None) -> list[datetime]:
    """All hours that either book knows; hours without rows cost nothing much to look at."""
    rows = RequestLog.objects.aggregate(first=Min("received_at"), last=Max("received_at"))
    usage = UsageHour.objects.aggregate(first=Min("hour"), last=Max("hour"))
    firsts = [book["first"] for book in (rows, usage) if book["first"]]
    lasts = [book["last"] for book in (rows, usage) if book["last"]]
    if not firsts:
        return []
    first = max(hour_of(min(firsts)), hour_of(since) if since else hour_of(min(firsts)))
    count = (hour_of(max(lasts)) - first) // timedelta(hours=1) + 1
    return [first + number * HOUR for number in range(max(count, 0))]


def _of_hour(hour: datetime) -> Differences:
    rows = {_names(usage): usage for usage in usage_of(hour)}
    kept = {_names(usage): usage for usage in UsageHour.objects.filter(hour=hour)}
    for names in rows.keys() | kept.keys():
        for name in SUMS:
            says, was = getattr(rows.get(names), name, 0), getattr(kept.get(names), name, 0)
            if says != was:
                where = ", ".join(
                    f"{n}={v}" for n, v in zip(NAMES, names, strict=True) if v not in ("", None)
                )
                yield Difference(
                    "usage", f"{hour:%Y-%m-%d %H}:00, {where}: the rows' {name} is {says}, the usage's {was}"
                )


def _names(usage: UsageHour) -> tuple[Any, ...]:
    return tuple(getattr(usage, name) for name in NAMES)
