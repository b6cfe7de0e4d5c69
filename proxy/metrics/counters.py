"""Counts of one web process: a few additions per call, made where the call is accounted for.

Written on the event loop only; another thread copies them. A series is a list of integers, so that
those of all processes can be added up without knowing what they mean.
"""

from bisect import bisect_left

from proxy.calls.call import Attempt, Call
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
    """Attributes have the families' names; monitoring/metrics/exposition.py says what they mean."""

    __slots__ = (
        "_classes",
        "_of_routes",
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
        self._of_routes: dict[Labels, _OfRoute] = {}
        self._classes = {None: NONE} | {status: f"{status // 100}xx" for status in range(100, 600)}

    def count(self, call: Call, row: Closed) -> None:
        """A call that is over; `row` is what the journal keeps of it."""
        route, provider = row.route or OTHER, row.provider or NONE
        if call.shadow:
            _of(self.shadows, (route, provider, row.outcome), 1)[0] += 1
        else:
            labels = row.endpoint, route, provider, row.outcome, self._classes.get(row.status, OTHER)
            series = self.requests.get(labels) or _of(self.requests, labels, 1)
            series[0] += 1
            if row.outcome == "refused":
                _of(self.refusals, (route, row.error_code), 1)[0] += 1
        if call.attempts:
            found = self._of_routes.get((route, provider)) or self._of_route((route, provider))
            self._count_usage(call, row, found)
            if not call.shadow:
                found.observe(row)

    def _of_route(self, labels: Labels) -> "_OfRoute":
        found = _OfRoute(self, labels)
        if len(self._of_routes) < MOST_SERIES:
            self._of_routes[labels] = found
        return found

    def _count_usage(self, call: Call, row: Closed, found: "_OfRoute") -> None:
        usage = found.usage
        usage[INPUT] += row.input_tokens or 0
        usage[OUTPUT] += row.output_tokens or 0
        if row.cost_nano_usd is not None:
            usage[COST_NANO] += row.cost_nano_usd
        elif row.outcome == "answered":
            usage[UNPRICED] += 1
        before: Attempt | None = None
        for attempt in call.attempts:
            labels = attempt.target.provider.slug, _result(attempt)
            series = self.attempts.get(labels) or _of(self.attempts, labels, 1)
            series[0] += 1
            if before is not None:
                usage[RETRIES if before.target is attempt.target else FALLBACKS] += 1
            before = attempt

    def copy(self) -> dict[str, list[tuple[Labels, list[int]]]]:
        """Of all families, from any thread."""
        return {
            name: [(labels, list(counts)) for labels, counts in list(getattr(self, name).items())]
            for name in self.families
        }


class _OfRoute:
    """The series of one route and provider, found together: this is looked up for every call."""

    __slots__ = ("_labels", "_overhead", "_seconds", "_ttft", "usage")

    def __init__(self, counters: Counters, labels: Labels) -> None:
        self._labels = labels
        self._ttft = counters.ttft  # which only streams have
        self._seconds = _of(counters.seconds, labels, len(_MS) + 2)
        self._overhead = _of(counters.overhead, labels, len(_OVERHEAD_MS) + 2)
        self.usage = _of(counters.usage, labels, 6)

    def observe(self, row: Closed) -> None:
        if (ms := row.total_ms) is not None:
            self._seconds[bisect_left(_MS, ms)] += 1
            self._seconds[-1] += int(ms * 1000)
        if (ms := row.overhead_ms) is not None:
            self._overhead[bisect_left(_OVERHEAD_MS, ms)] += 1
            self._overhead[-1] += int(ms * 1000)
        if row.stream and (ms := row.ttft_ms) is not None:
            counts = _of(self._ttft, self._labels, len(_MS) + 2)
            counts[bisect_left(_MS, ms)] += 1
            counts[-1] += int(ms * 1000)


def _of(series: Series, labels: Labels, size: int) -> list[int]:
    counts = series.get(labels)
    if counts is None:
        if len(series) >= MOST_SERIES:
            labels = (OTHER,) * len(labels)
        counts = series.setdefault(labels, [0] * size)
    return counts


def _result(attempt: Attempt) -> str:
    result = attempt.result
    if result[:1].isdigit():
        return "answered"
    return "cancelled" if result == "cancelled" else "failed"
