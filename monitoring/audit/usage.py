"""Usage by the hour against the rows it was made from."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Max, Min

from monitoring.audit import Difference, Differences
from monitoring.request_log.models import RequestLog
from monitoring.usage.models import StaleHour, UsageHour, UsageSum
from monitoring.usage.rollups import HOUR, NAMES, SUMS, hour_of, roll_up, usage_of
from monitoring.usage.sums import DAY, day_of, sums_of


def differences(since: datetime | None = None) -> Differences:
    roll_up()
    hours = _hours(since)
    for hour in hours:
        yield from _if_settled(list(_of_hour(hour)), hour, HOUR)
    for day in sorted({day_of(hour) for hour in hours}):
        yield from _if_settled(list(_of_day(day)), day, DAY)


def _if_settled(found: list[Difference], start: datetime, length: timedelta) -> Differences:
    """Rows that came while the books were compared have marked their hour."""
    if found and not StaleHour.objects.filter(hour__gte=start, hour__lt=start + length).exists():
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
    kept = {_names(usage): usage for usage in UsageHour.objects.filter(hour=hour, archived=False)}
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


def _of_day(day: datetime) -> Differences:
    """The sums by one dimension against the hours they were made of."""
    hours = UsageHour.objects.filter(hour__gte=day, hour__lt=day + DAY)
    kept = UsageSum.objects.filter(start__gte=day, start__lt=day + DAY)
    made, were = _totals(sums_of(hours.iterator(), day)), _totals(kept.iterator())
    for dimension, value in made.keys() | were.keys():
        says, was = made[dimension, value], were[dimension, value]
        for name in SUMS:
            if says[name] != was[name]:
                group = f"{dimension}={value}" if dimension else "everything"
                text = f"{day:%Y-%m-%d}, {group}: the hours' {name} is {says[name]}, the sum's {was[name]}"
                yield Difference("usage", text)


def _totals(sums: Iterable[UsageSum]) -> dict[tuple[str, str], Counter[str]]:
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for one in sums:
        found[one.dimension, one.value].update({name: getattr(one, name) for name in SUMS})
    return found


def _names(usage: UsageHour) -> tuple[Any, ...]:
    return tuple(getattr(usage, name) for name in NAMES)
