"""What was used and what it cost, by one dimension, from usage by the hour."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from monitoring.request_log.models import NANO, RequestLog
from monitoring.usage.models import UsageHour, UsageSum
from monitoring.usage.percentiles import add, percentile

GROUPS = {
    "team": "team",
    "key": "key_name",
    "route": "route",
    "provider": "provider",
    "model": "upstream_model",
    "tag": "tags",
    "status": "status",
    "outcome": "outcome",
    "hour": "hour",
    "day": "hour",
    "month": "hour",
}
"""What usage can be grouped by, and the column that says it."""

EVERYTHING = ""
"""The dimension of what is not told apart."""

FILTERS = ("team", "key", "route", "provider", "model", "tag")
LONGEST_DAYS = 800
_ERRORS = {
    RequestLog.Outcome.UPSTREAM_FAILED.value,
    RequestLog.Outcome.UPSTREAM_BROKEN.value,
    RequestLog.Outcome.FAILED.value,
    RequestLog.Outcome.UNKNOWN.value,
}
_MOMENTS = {"hour": "%Y-%m-%dT%H:00Z", "day": "%Y-%m-%d", "month": "%Y-%m"}
COUNTS = (
    "requests",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "cost_nano_usd",
    "unpriced",
)


class QuestionInvalid(ValueError):
    """`field` is the parameter that is wrong; the message says what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Question:
    """Days are whole ones (UTC), the last one included. `where` maps a filter's name to its value."""

    group_by: str
    first: date
    last: date
    where: Mapping[str, str] = field(default_factory=dict)
    key_id: int | None = None  # only this key's

    @property
    def start(self) -> datetime:
        return datetime.combine(self.first, time(), UTC)

    @property
    def end(self) -> datetime:
        """The first moment after."""
        return datetime.combine(self.last, time(), UTC) + timedelta(days=1)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


@dataclass(slots=True)
class Line:
    """One group's sums."""

    group: str
    requests: int = 0
    errors: int = 0  # failures of providers and of the gateway itself, not refusals
    refused: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cache_write_tokens: int = 0
    cost_nano_usd: int = 0
    unpriced: int = 0  # requests whose cost is unknown: not in the cost
    total_buckets: dict[str, int] = field(default_factory=dict)
    ttft_buckets: dict[str, int] = field(default_factory=dict)

    @property
    def cost_usd(self) -> Decimal:
        return Decimal(self.cost_nano_usd) / NANO

    def shown(self) -> dict[str, Any]:
        """As JSON and CSV have it; latencies in milliseconds, shares from 0 to 1."""
        return {
            "group": self.group,
            "requests": self.requests,
            "errors": self.errors,
            "refused": self.refused,
            "error_rate": _share(self.errors, self.requests),
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "cached_share": _share(self.cached_tokens, self.input_tokens),
            "cost_usd": f"{self.cost_usd:.9f}",
            "unpriced": self.unpriced,
            "total_ms_p50": percentile(self.total_buckets, 0.5),
            "total_ms_p95": percentile(self.total_buckets, 0.95),
            "ttft_ms_p50": percentile(self.ttft_buckets, 0.5),
            "ttft_ms_p95": percentile(self.ttft_buckets, 0.95),
        }


COLUMNS = tuple(Line("").shown())


def question(given: Mapping[str, str], *, today: date, key_id: int | None = None) -> Question:
    """From query parameters or a command's: group_by, from, to and filters. Raises QuestionInvalid."""
    group_by = given.get("group_by") or "day"
    if group_by not in GROUPS:
        raise QuestionInvalid("group_by", f"group_by is {group_by!r}; allowed are {', '.join(GROUPS)}.")
    last = _day(given, "to", today)
    first = _day(given, "from", last - timedelta(days=29))
    if not timedelta(0) <= last - first < timedelta(days=LONGEST_DAYS):
        raise QuestionInvalid(
            "from", f"from must not be after to, nor {LONGEST_DAYS} days or more before it."
        )
    where = {name: given[name] for name in FILTERS if given.get(name)}
    return Question(group_by, first, last, where, key_id)


def _day(given: Mapping[str, str], name: str, default: date) -> date:
    text = given.get(name)
    if not text:
        return default
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise QuestionInvalid(name, f"{name} is {text!r}; it must be a day like 2026-01-31.") from None


def report(asked: Question) -> list[Line]:
    """Dearest first, or in time. A request with several tags is in the line of each."""
    found: dict[str, Line] = {}
    for group, usage in _grouped(asked):
        count(found.setdefault(group, Line(group)), usage)
    if asked.group_by in _MOMENTS:
        return [found[group] for group in sorted(found)]
    return sorted(found.values(), key=lambda line: (-line.cost_nano_usd, -line.requests, line.group))


def total(asked: Question) -> Line:
    """Each request once."""
    found = Line("total")
    for usage in _usage(asked) if _is_narrow(asked) else _sums(asked, EVERYTHING):
        count(found, usage)
    return found


def _is_narrow(asked: Question) -> bool:
    return bool(asked.where) or asked.key_id is not None


def _grouped(asked: Question) -> Iterator[tuple[str, UsageHour | UsageSum]]:
    if _is_narrow(asked) or asked.group_by == "hour":
        for usage in _usage(asked):
            for group in groups_of(usage, asked.group_by):
                yield group, usage
    elif asked.group_by in _MOMENTS:
        for one in _sums(asked, EVERYTHING):
            yield _moment(one.start, asked.group_by), one
    else:
        for one in _sums(asked, asked.group_by):
            yield one.value, one


def _sums(asked: Question, dimension: str) -> Iterator[UsageSum]:
    return UsageSum.objects.filter(dimension=dimension, start__gte=asked.start, start__lt=asked.end).iterator(
        chunk_size=2000
    )


def _usage(asked: Question) -> Iterator[UsageHour]:
    rows = UsageHour.objects.filter(hour__gte=asked.start, hour__lt=asked.end)
    if asked.key_id is not None:
        rows = rows.filter(key_id=asked.key_id)
    where = {GROUPS[name]: value for name, value in asked.where.items() if name != "tag"}
    tag = asked.where.get("tag")
    for usage in rows.filter(**where).iterator(chunk_size=2000):
        if tag is None or tag in usage.tags.split(","):
            yield usage


def groups_of(usage: UsageHour, group_by: str) -> list[str]:
    """Those that an hour's usage counts in: several by tag, one by all else."""
    if group_by == EVERYTHING:
        return [""]
    if group_by == "tag":
        return usage.tags.split(",")
    if group_by in _MOMENTS:
        return [_moment(usage.hour, group_by)]
    value = getattr(usage, GROUPS[group_by])
    return ["" if value is None else str(value)]


def _moment(start: datetime, group_by: str) -> str:
    return start.astimezone(UTC).strftime(_MOMENTS[group_by])


def count(line: Line, usage: UsageHour | UsageSum) -> None:
    for name in COUNTS:
        setattr(line, name, getattr(line, name) + getattr(usage, name))
    if isinstance(usage, UsageSum):
        line.errors += usage.errors
        line.refused += usage.refused
    elif usage.outcome in _ERRORS:
        line.errors += usage.requests
    elif usage.outcome == RequestLog.Outcome.REFUSED:
        line.refused += usage.requests
    add(line.total_buckets, usage.total_buckets)
    add(line.ttft_buckets, usage.ttft_buckets)
