"""Sums the request log up by the hour. An hour whose rows changed is summed up again as a whole.

So it may be run again, may stop anywhere, and rows may come late: an hour is either marked as stale,
or its usage is what its rows say.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Case, Count, F, FloatField, Q, QuerySet, Sum, Value, When
from django.db.models.functions import Coalesce, Floor, Ln
from django.utils import timezone

from monitoring.request_log.models import RequestLog
from monitoring.usage import sums
from monitoring.usage.models import StaleHour, UsageHour
from monitoring.usage.percentiles import FASTEST_MS, LOG_STEP

HOUR = timedelta(hours=1)
NAMES = (
    "key_id",
    "key_name",
    "team",
    "route",
    "target_id",
    "provider",
    "upstream_model",
    "tags",
    "status",
    "outcome",
    "shadow",
)
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cache_write_tokens")
SUMS = ("requests", *TOKENS, "cost_nano_usd", "unpriced")

TRIES = 3  # at an hour whose day others change meanwhile; then it waits for the next turn

_REACHED = Q(attempts__gt=0) | Q(outcome=RequestLog.Outcome.UNKNOWN)


def roll_up() -> int:
    """Sum up all stale hours, the newest first; how many there were."""
    hours = list(StaleHour.objects.order_by("-hour").values_list("hour", flat=True))
    done = sum(roll_hour(hour) for hour in hours)
    sums.fold_days(timezone.now())
    return done


def roll_hour(hour: datetime) -> bool:
    """False where it is not stale, or another process is at it."""
    for _ in range(TRIES):
        changes = StaleHour.objects.filter(hour=hour).values_list("changes", flat=True).first()
        if changes is None:
            return False
        made = _sum_up(hour)  # outside of the transaction: nobody else can write while one is open
        stored = _store(made, changes)
        if stored is not None:
            return stored
    return False


@dataclass(frozen=True, slots=True)
class _Made:
    """What is to replace the hour's usage."""

    hour: datetime
    usage: list[UsageHour]
    sums: sums.Prepared


def _sum_up(hour: datetime) -> _Made:
    state = sums.state_of(sums.day_of(hour))  # before its rows are read
    usage = list(usage_of(hour))
    return _Made(hour, usage, sums.prepare(hour, usage, state))


@transaction.atomic
def _store(made: _Made, changes: int) -> bool | None:
    """None: what it was made from has changed, so it must be made again."""
    stale = StaleHour.objects.filter(hour=made.hour)
    skips = connection.features.has_select_for_update_skip_locked
    locked = stale.select_for_update(skip_locked=True) if skips else stale
    if locked.first() is None:
        return False
    sums.lock_day(sums.day_of(made.hour))
    if not sums.still_fits(made.sums):
        return None
    _replace(made)
    # Rows that came since the sum was made have raised the number: the hour stays stale.
    stale.filter(changes=changes).delete()
    return True


def replace_hour(hour: datetime) -> None:
    """Inside a transaction that has locked the hour's day."""
    _replace(_sum_up(hour))


def _replace(made: _Made) -> None:
    """What is archived stays: its rows are gone."""
    UsageHour.objects.filter(hour=made.hour, archived=False).delete()
    UsageHour.objects.bulk_create(made.usage, batch_size=500)
    sums.replace(made.sums)


def rows_of(hour: datetime) -> QuerySet[RequestLog]:
    return RequestLog.objects.filter(received_at__gte=hour, received_at__lt=hour + HOUR)


def usage_of(hour: datetime, rows: QuerySet[RequestLog] | None = None) -> Iterable[UsageHour]:
    """As the rows of the log say now, or some of them; nothing is stored."""
    rows = (rows_of(hour) if rows is None else rows).order_by()
    found: dict[tuple[Any, ...], UsageHour] = {}
    for group in rows.values(*NAMES).annotate(**_sums()):
        usage = _entry(found, group, hour)
        for name in SUMS:
            setattr(usage, name, getattr(usage, name) + int(group[f"sum_{name}"]))
    _add_latencies(found, rows, "total_ms", "total_buckets", hour)
    _add_latencies(found, rows, "ttft_ms", "ttft_buckets", hour)
    return found.values()


def _sums() -> dict[str, Any]:
    sums: dict[str, Any] = {f"sum_{name}": Coalesce(Sum(name), 0) for name in (*TOKENS, "cost_nano_usd")}
    sums["sum_requests"] = Count("pk")
    sums["sum_unpriced"] = Count("pk", filter=Q(cost_nano_usd=None) & _REACHED)
    return sums


def _entry(found: dict[tuple[Any, ...], UsageHour], group: dict[str, Any], hour: datetime) -> UsageHour:
    """Rows whose tags differ in order only share one."""
    names = {name: group[name] for name in NAMES} | {"tags": ",".join(sorted(set(group["tags"] or ())))}
    key = tuple(names.values())
    if key not in found:
        zeros = dict.fromkeys(SUMS, 0)
        found[key] = UsageHour(hour=hour, total_buckets={}, ttft_buckets={}, **names, **zeros)
    return found[key]


def _add_latencies(
    found: dict[tuple[Any, ...], UsageHour],
    rows: QuerySet[RequestLog],
    column: str,
    buckets_name: str,
    hour: datetime,
) -> None:
    bounded = Case(
        When(**{f"{column}__lt": FASTEST_MS}, then=Value(FASTEST_MS)),
        default=F(column),
        output_field=FloatField(),
    )
    bucket = Floor(Ln(bounded) / Value(LOG_STEP), output_field=FloatField())
    timed = rows.filter(**{f"{column}__isnull": False}).annotate(bucket=bucket)
    for group in timed.values(*NAMES, "bucket").annotate(calls=Count("pk")):
        buckets = getattr(_entry(found, group, hour), buckets_name)
        name = str(int(group["bucket"]))
        buckets[name] = buckets.get(name, 0) + group["calls"]


def first_stale() -> datetime | None:
    """From this hour on, usage may lag behind the log; None where it is up to date."""
    return StaleHour.objects.order_by("hour").values_list("hour", flat=True).first()


def hour_of(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
