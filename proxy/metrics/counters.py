"""Counts of one web process: a few additions per call, made where the call is accounted for.

Written on the event loop only; another thread copies them. A series is a list of integers, so that
those of all processes can be added up without knowing what they mean.
"""

from bisect import bisect_left

from proxy.call import Attempt, Call
from proxy.journal.records import Closed

Labels = tuple[str, ...]
Series = dict[Labels, list[int]]

NONE, OTHER = "none", "other"
MOST_SERIES = 5000
"""Per family; what comes on top is counted under "other". Labels are configured names, never a caller's."""

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
OVERHEAD_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_MS = tuple(1000 * bound for bound in SECONDS)
_OVERHEAD_MS = tuple(1000 * bound for bound in OVERHEAD_SECONDS)

# Places in a series of `usage`.
INPUT, OUTPUT, COST_NANO, UNPRICED, RETRIES, FALLBACKS = range(6)


class Counters:
    """Names of the attributes are those of the families; monitoring/exposition.py says what they mean."""

    __slots__ = (
        "_classes",
        "attempts",
        "overhead",
        "refusals",
        "requests",
        "seconds",
        "shadows",
        "ttft",
        "usage",
    )
    families = tuple(name for name in __slots__ if not name.startswith("_"))

    def __init__(self) -> None:
        self.requests: Series = {}  # endpoint, route, provider, outcome, status class
        self.shadows: Series = {}  # route, provider, outcome
        self.attempts: Series = {}  # provider, result
        self.refusals: Series = {}  # route, code
        self.usage: Series = {}  # route, provider
        self.seconds: Series = {}  # route, provider; the buckets, then the sum in microseconds
        self.ttft: Series = {}
        self.overhead: Series = {}
        self._classes = {None: NONE} | {status: f"{status // 100}xx" for status in range(100, 600)}

    def count(self, call: Call, row: Closed) -> None:
        """A call that is over; `row` is what the journal keeps of it."""
        route, provider = row.route or OTHER, row.provider or NONE
        if call.shadow:
            _of(self.shadows, (route, provider, row.outcome), 1)[0] += 1
        else:
            status = self._classes.get(row.status, OTHER)
            _of(self.requests, (row.endpoint, route, provider, row.outcome, status), 1)[0] += 1
            if row.outcome == "refused":
                _of(self.refusals, (route, row.error_code), 1)[0] += 1
        if call.attempts:
            self._count_usage(call, row, (route, provider))
            if not call.shadow:
                self._count_times(row, (route, provider))

    def _count_usage(self, call: Call, row: Closed, labels: Labels) -> None:
        usage = _of(self.usage, labels, 6)
        usage[INPUT] += row.input_tokens or 0
        usage[OUTPUT] += row.output_tokens or 0
        if row.cost_nano_usd is not None:
            usage[COST_NANO] += row.cost_nano_usd
        elif row.outcome == "answered":
            usage[UNPRICED] += 1
        before: Attempt | None = None
        for attempt in call.attempts:
            _of(self.attempts, (attempt.target.provider.slug, _result(attempt)), 1)[0] += 1
            if before is not None:
                usage[RETRIES if before.target is attempt.target else FALLBACKS] += 1
            before = attempt

    def _count_times(self, row: Closed, labels: Labels) -> None:
        _observe(self.seconds, labels, _MS, row.total_ms)
        _observe(self.overhead, labels, _OVERHEAD_MS, row.overhead_ms)
        if row.stream:
            _observe(self.ttft, labels, _MS, row.ttft_ms)

    def copy(self) -> dict[str, list[tuple[Labels, list[int]]]]:
        """Of all families, from any thread."""
        return {
            name: [(labels, list(counts)) for labels, counts in list(getattr(self, name).items())]
            for name in self.families
        }


def _of(series: Series, labels: Labels, size: int) -> list[int]:
    counts = series.get(labels)
    if counts is None:
        if len(series) >= MOST_SERIES:
            labels = (OTHER,) * len(labels)
        counts = series.setdefault(labels, [0] * size)
    return counts


def _observe(series: Series, labels: Labels, bounds: tuple[float, ...], ms: float | None) -> None:
    if ms is not None:
        counts = _of(series, labels, len(bounds) + 2)
        counts[bisect_left(bounds, ms)] += 1
        counts[-1] += int(ms * 1000)


def _result(attempt: Attempt) -> str:
    result = attempt.result
    if result[:1].isdigit():
        return "answered"
    return "cancelled" if result == "cancelled" else "failed"
