"""What an owner of a budget has spent: by usage, by rows where that lags, and by the journal."""

import functools
import json
import math
import operator
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import Q, QuerySet, Sum
from django.db.models.expressions import RawSQL

from monitoring.request_log.models import RequestLog
from monitoring.shipping.storing import unknown
from monitoring.usage.models import StaleHour, UsageHour
from proxy.journal.reader import Position, lives, read_new, segments, workers
from proxy.journal.records import Closed, Opened, Record
from routing.models import ModelRoute, Provider, Team
from routing.table import LimitOwner

HOUR = 3600
_COLUMNS = {"key": "key_id", "team": "team", "route": "route", "target": "target_id", "provider": "provider"}
_PAY_FOR_SHADOWS = ("target", "provider")  # a copy costs its account, and no caller
_KNOWN_BY_NAME: dict[str, Any] = {"team": Team, "route": ModelRoute, "provider": Provider}


def spent(owner: LimitOwner, start: float | None, end: float | None, leave_out: Collection[str] = ()) -> int:
    """Nano-USD of the calls that arrived from start until before end (Unix seconds, None is open)."""
    begins, ends = _times(owner, start, end)
    column, value = _column(owner)
    pays_all = owner.kind in _PAY_FOR_SHADOWS
    # Before the database: what is shipped meanwhile is then in both, and counts once by its id.
    fresh = {
        call.id: call.cost_nano_usd
        for call in _journal()
        # Of an unknown cost the row may know more by now: an admin may have set the price.
        if call.cost_nano_usd is not None
        and getattr(call, column) == value
        and begins <= call.received_at_ns / 1e9 < ends
        and (pays_all or not call.shadow)
    }
    shipped = _of_database(owner, begins, ends, {*fresh, *leave_out})
    return shipped + sum(cost for id, cost in fresh.items() if id not in leave_out)


def shipped(owner: LimitOwner, start: float | None, end: float | None) -> int:
    """As spent(), of the calls that are in the database: where a second's delay does no harm.

    The journal may have grown to millions of calls while the database was away.
    """
    return _of_database(owner, *_times(owner, start, end), set())


def _of_database(owner: LimitOwner, begins: float, ends: float, leave_out: set[str]) -> int:
    column, value = _column(owner)
    hours = _hours(begins, ends, {_hour_of_id(id) for id in leave_out})
    usage = UsageHour.objects.filter(hours.summed, **{column: value})
    rows = RequestLog.objects.filter(**{column: value})
    if leave_out:
        rows = rows.exclude(pk__in=_all_of(leave_out))
    found = [usage] if hours.detailed is None else [usage, rows.filter(hours.detailed)]
    return sum(_cost(one if owner.kind in _PAY_FOR_SHADOWS else one.filter(shadow=False)) for one in found)


def _column(owner: LimitOwner) -> tuple[str, str | int]:
    return _COLUMNS[owner.kind], owner.name if owner.kind in _KNOWN_BY_NAME else owner.id


def _times(owner: LimitOwner, start: float | None, end: float | None) -> tuple[float, float]:
    return max(start or 0.0, _created(owner)), math.inf if end is None else end


def _all_of(ids: Collection[str]) -> RawSQL:
    """One parameter, however many there are: after an hour without the database they are millions."""
    if connection.vendor == "postgresql":
        return RawSQL("SELECT unnest(%s::uuid[])", [list(ids)])
    return RawSQL("SELECT value FROM json_each(%s)", [json.dumps([UUID(id).hex for id in ids])])


def _cost(found: QuerySet[Any]) -> int:
    return found.order_by().aggregate(total=Sum("cost_nano_usd"))["total"] or 0


@dataclass(frozen=True, slots=True)
class _Hours:
    summed: Q  # of UsageHour
    detailed: Q | None  # of RequestLog


def _hours(begins: float, ends: float, special: set[int]) -> _Hours:
    """What is read as usage by the hour, and what row by row: parts of hours, stale ones, special ones.

    Hours are counted since 1970. What the log keeps no longer is known by the hour only: then an hour that
    begins before the time does counts as a whole.
    """
    first = math.ceil(begins / HOUR)
    after = math.inf if ends == math.inf else ends // HOUR
    special |= {int(hour.timestamp()) // HOUR for hour in StaleHour.objects.values_list("hour", flat=True)}
    times: list[tuple[float, float]] = [
        (hour * HOUR, (hour + 1) * HOUR) for hour in special if first <= hour < after
    ]
    times += [(begins, first * HOUR)] if begins < first * HOUR else []
    times += [(after * HOUR, ends)] if after * HOUR < ends < math.inf else []
    whole = Q(hour__gte=_moment(first * HOUR)) & _before("hour", after * HOUR)
    inside = Q(hour__gte=_moment(begins // HOUR * HOUR)) & _before("hour", ends)
    fresh = whole & ~Q(hour__in=[_moment(hour * HOUR) for hour in special])
    return _Hours(Q(inside, archived=True) | Q(fresh, archived=False), _any_of(times))


def _any_of(times: list[tuple[float, float]]) -> Q | None:
    """Neighbours as one: after a long time without summing up there are many."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted(times):
        if joined and joined[-1][1] >= start:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    found = [Q(received_at__gte=_moment(start), received_at__lt=_moment(end)) for start, end in joined]
    return functools.reduce(operator.or_, found) if found else None


def _before(column: str, end: float) -> Q:
    return Q() if end == math.inf else Q(**{f"{column}__lt": _moment(end)})


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _hour_of_id(id: str) -> int:
    return int(id[:8] + id[9:13], 16) // 1000 // HOUR


def _created(owner: LimitOwner) -> float:
    """Unix seconds. What an earlier owner of a name spent is not this one's; ids are never used again."""
    model = _KNOWN_BY_NAME.get(owner.kind)
    if model is None:
        return 0.0
    created: datetime = model.objects.values_list("created_at", flat=True).get(pk=owner.id)
    return created.timestamp()


def _journal() -> Iterator[Closed]:
    """Calls that have ended, and those that a dead worker left open at what was reserved for them."""
    directory = Path(settings.JOURNAL_DIR)
    for worker in workers(directory) if directory.exists() else ():
        dead = not lives(directory, worker)  # before its records are read: no more will follow
        left: dict[str, Opened] = {}
        for path in segments(directory, worker):
            for record in _records(path):
                if isinstance(record, Closed):
                    left.pop(record.id, None)
                    yield record
                else:
                    left[record.id] = record
        if dead:
            yield from (unknown(opened) for opened in left.values())


def _records(path: Path) -> Iterator[Record]:
    position = Position(path)
    with suppress(FileNotFoundError):  # shipped and deleted meanwhile
        while records := read_new(position):
            yield from records
