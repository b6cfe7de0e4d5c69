"""Usage by one dimension alone: what reports of long times read."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta

from django.db import connection, transaction
from django.db.models import QuerySet

from monitoring.models import StaleHour, UsageHour, UsageSum
from monitoring.usage import COUNTS, EVERYTHING, Line, count, groups_of

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


def replace_hour(hour: datetime) -> None:
    """Inside the transaction that changed the hour's usage, whose day is locked. A folded day unfolds."""
    day = day_of(hour)
    hours = [hour]
    if UsageSum.objects.filter(start=day, whole_day=True).exists():
        UsageSum.objects.filter(start=day, whole_day=True).delete()
        usage = _in_day(UsageHour.objects.all(), "hour", day)
        hours = sorted(set(usage.values_list("hour", flat=True)))
    UsageSum.objects.filter(start=hour, whole_day=False).delete()
    for one in hours:
        _create(sums_of(UsageHour.objects.filter(hour=one), one))


def _create(sums: list[UsageSum]) -> None:
    UsageSum.objects.bulk_create(sums, batch_size=500)


def _in_day(rows: QuerySet, column: str, day: datetime) -> QuerySet:
    return rows.filter(**{f"{column}__gte": day, f"{column}__lt": day + DAY})


def fold_days(now: datetime) -> int:
    """Days that are over, and up to date, become one entry per group instead of 24; how many there were."""
    hours = UsageSum.objects.filter(whole_day=False, start__lt=day_of(now), dimension=EVERYTHING)
    days = {day_of(hour) for hour in hours.values_list("start", flat=True)}
    return sum(_fold(day) for day in sorted(days))


@transaction.atomic
def _fold(day: datetime) -> bool:
    lock_day(day)
    if _in_day(StaleHour.objects.all(), "hour", day).exists():
        return False
    hours = _in_day(UsageSum.objects.filter(whole_day=False), "start", day)
    found: dict[str, dict[str, Line]] = defaultdict(dict)
    for one in hours.iterator():
        count(found[one.dimension].setdefault(one.value, Line(one.value)), one)
    hours.delete()
    lines = [(dimension, line) for dimension, groups in found.items() for line in groups.values()]
    _create([_stored(line, dimension, day, True) for dimension, line in lines])
    return True
