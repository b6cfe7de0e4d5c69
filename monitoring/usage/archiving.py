"""Moves usage from the rows of the log to what is kept without them; all sums stay as they are."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from monitoring.usage import percentiles
from monitoring.usage.models import UsageHour
from monitoring.usage.rollups import NAMES, SUMS

BUCKETS = ("total_buckets", "ttft_buckets")
_Names = tuple[Any, ...]


def archive(hour: datetime, taken: list[UsageHour]) -> bool:
    """In the transaction that takes the rows. False: the hour's usage has less than they used.

    Entries are replaced, not updated: a newer number tells others that the hour has changed.
    """
    usage = UsageHour.objects.filter(hour=hour)
    kept, archived = _by_names(usage.filter(archived=False)), _by_names(usage.filter(archived=True))
    replaced: list[UsageHour] = []
    for part in taken:
        names = names_of(part)
        rest = _less(kept[names], part) if names in kept else None
        if rest is None:
            return False
        replaced += [rest] if rest.requests else []
        replaced.append(_more(archived.get(names), part))
    gone = [old[names] for old in (kept, archived) for names in map(names_of, taken) if names in old]
    UsageHour.objects.filter(pk__in=[one.pk for one in gone]).delete()
    UsageHour.objects.bulk_create(replaced, batch_size=500)
    return True


def names_of(usage: UsageHour) -> _Names:
    return tuple(getattr(usage, name) for name in NAMES)


def _by_names(usage: Iterable[UsageHour]) -> dict[_Names, UsageHour]:
    """Where a combination is there more than once, as earlier releases archived them, the last one."""
    return {names_of(one): one for one in usage}


def _less(kept: UsageHour, part: UsageHour) -> UsageHour | None:
    rest = _new(kept, archived=False)
    for name in SUMS:
        setattr(rest, name, getattr(kept, name) - getattr(part, name))
    for name in BUCKETS:
        left = Counter(getattr(kept, name))
        left.subtract(getattr(part, name))
        setattr(rest, name, {bucket: calls for bucket, calls in left.items() if calls})
    counts = [getattr(rest, name) for name in SUMS]
    counts += [calls for name in BUCKETS for calls in getattr(rest, name).values()]
    return rest if min(counts) >= 0 else None


def _more(archived: UsageHour | None, part: UsageHour) -> UsageHour:
    total = _new(part, archived=True)
    for one in (archived, part) if archived is not None else (part,):
        for name in SUMS:
            setattr(total, name, getattr(total, name) + getattr(one, name))
        for name in BUCKETS:
            percentiles.add(getattr(total, name), getattr(one, name))
    return total


def _new(like: UsageHour, *, archived: bool) -> UsageHour:
    names = {name: getattr(like, name) for name in NAMES}
    empty: dict[str, Any] = {name: {} for name in BUCKETS}
    return UsageHour(hour=like.hour, archived=archived, **names, **dict.fromkeys(SUMS, 0), **empty)
