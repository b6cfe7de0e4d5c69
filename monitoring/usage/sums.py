"""Usage by one dimension alone: what reports of long times read."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from django.db import connection, transaction
from django.db.models import Count, Max, QuerySet

from monitoring.usage.models import StaleHour, UsageHour, UsageSum
from monitoring.usage.report import COUNTS, EVERYTHING, Line, count, groups_of

DIMENSIONS = (EVERYTHING, "team", "key", "route", "provider", "model", "tag", "status", "outcome")
DAY = timedelta(days=1)
FOLDING_LOCK = 7_405_000  # beside the day's number: any number that nothing else on this database locks


def day_of(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(UTC).date(), time(), UTC)


def lock_day(day: datetime) -> None:
    """Until the transaction ends. SQLite has one writer anyway."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [FOLDING_LOCK, day.toordinal()])


def sums_of(usages: Iterable[UsageHour], start: datetime, *, whole_day: bool = False) -> list[UsageSum]:
    """Nothing is stored."""
    found: dict[tuple[str, str], Line] = {}
    for usage in usages:
        for dimension in DIMENSIONS:
            for group in groups_of(usage, dimension):
                count(found.setdefault((dimension, group), Line(group)), usage)
    return [_stored(line, dimension, start, whole_day) for (dimension, _), line in found.items()]


def _stored(line: Line, dimension: str, start: datetime, whole_day: bool) -> UsageSum:
    return UsageSum(
        start=start,
        whole_day=whole_day,
        dimension=dimension,
        value=line.group,
        errors=line.errors,
        refused=line.refused,
        total_buckets=line.total_buckets,
        ttft_buckets=line.ttft_buckets,
        **{name: getattr(line, name) for name in COUNTS},
    )


State = tuple[int, int]
"""Of a set of rows that are never updated, only replaced: how many there are, and the newest one's number."""


def state_of(day: datetime) -> State:
    """Of the usage of its hours."""
    return _state(_in_day(UsageHour.objects.all(), "hour", day))


def _state(rows: QuerySet) -> State:
    found = rows.aggregate(count=Count("pk"), newest=Max("pk"))
    return found["count"], found["newest"] or 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The sums of an hour, or of all of a day that was folded, and what they were made of."""

    hour: datetime
    sums: list[UsageSum]
    unfolds: bool
    state: State


def prepare(hour: datetime, usage: list[UsageHour], state: State) -> Prepared:
    """Of the hour's new usage and what is archived of it. A folded day unfolds. Nothing is stored."""
    archived = UsageHour.objects.filter(hour=hour, archived=True)
    sums = sums_of([*usage, *archived], hour)
    unfolds = _is_folded(day_of(hour))
    if unfolds:
        others = _in_day(UsageHour.objects.exclude(hour=hour), "hour", day_of(hour))
        for other in sorted(set(others.values_list("hour", flat=True))):
            sums += sums_of(UsageHour.objects.filter(hour=other), other)
    return Prepared(hour, sums, unfolds, state)


def still_fits(prepared: Prepared) -> bool:
    """Inside the transaction that stores it, whose day is locked."""
    day = day_of(prepared.hour)
    return state_of(day) == prepared.state and _is_folded(day) == prepared.unfolds


def replace(prepared: Prepared) -> None:
    if prepared.unfolds:
        UsageSum.objects.filter(start=day_of(prepared.hour), whole_day=True).delete()
    UsageSum.objects.filter(start=prepared.hour, whole_day=False).delete()
    _create(prepared.sums)


def _is_folded(day: datetime) -> bool:
    return UsageSum.objects.filter(start=day, whole_day=True).exists()


def _create(sums: list[UsageSum]) -> None:
    UsageSum.objects.bulk_create(sums, batch_size=500)


def _in_day(rows: QuerySet, column: str, day: datetime) -> QuerySet:
    return rows.filter(**{f"{column}__gte": day, f"{column}__lt": day + DAY})


def fold_days(now: datetime) -> int:
    """Days that are over, and up to date, become one entry per group instead of 24; how many there were."""
    hours = UsageSum.objects.filter(whole_day=False, start__lt=day_of(now), dimension=EVERYTHING)
    days = {day_of(hour) for hour in hours.values_list("start", flat=True)}
    return sum(_fold(day) for day in sorted(days))


def _fold(day: datetime) -> bool:
    hours = _in_day(UsageSum.objects.filter(whole_day=False), "start", day)
    state = _state(hours)
    found: dict[str, dict[str, Line]] = defaultdict(dict)
    for one in hours.iterator():
        count(found[one.dimension].setdefault(one.value, Line(one.value)), one)
    lines = [(dimension, line) for dimension, groups in found.items() for line in groups.values()]
    return _store_folded(day, [_stored(line, dimension, day, True) for dimension, line in lines], state)


@transaction.atomic
def _store_folded(day: datetime, sums: list[UsageSum], state: State) -> bool:
    """Not where the day is out of date, or was changed meanwhile."""
    lock_day(day)
    hours = _in_day(UsageSum.objects.filter(whole_day=False), "start", day)
    if _in_day(StaleHour.objects.all(), "hour", day).exists() or _state(hours) != state:
        return False
    hours.delete()
    _create(sums)
    return True
