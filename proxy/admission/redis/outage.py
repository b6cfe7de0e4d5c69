"""What calls cost that Redis never heard of, or has forgotten."""

import time
from collections import deque
from collections.abc import Sequence

from proxy.admission.redis.scripts import Record

SHIPPED_SECONDS = 60.0
"""A call that ended longer ago is taken to be in the log's database, where every process can read it."""

MOST_CALLS = 20_000  # by their ids; about 10 MB
FORGOTTEN_SECONDS = 10.0

Charge = tuple[str, str, int]
"""Owner, period, nano-USD."""


class SettledInOutage:
    """Calls that ended without Redis.

    The last minute's are reported one by one: a budget whose spending must be read from the log can then
    leave them out of what it reads, whether they are there already or not. The older ones are reported
    as one sum per budget, so that a Redis that stays away for hours fills no memory.
    """

    def __init__(self) -> None:
        self._calls: deque[tuple[float, Record, Sequence[Charge]]] = deque()
        self._sums: dict[tuple[str, str], int] = {}

    def add(self, record: Record, charges: Sequence[Charge]) -> None:
        now = time.monotonic()
        self._calls.append((now, record, charges))
        while self._calls[0][0] < now - SHIPPED_SECONDS or len(self._calls) > MOST_CALLS:
            for base, period, cost in self._calls.popleft()[2]:
                self._sums[base, period] = self._sums.get((base, period), 0) + cost

    def __len__(self) -> int:
        return len(self._calls) + len(self._sums)

    def take(self) -> list[Record]:
        """All of it, to be reported."""
        calls, self._calls = self._calls, deque()
        sums, self._sums = self._sums, {}
        records: list[Record] = [("C", base, period, cost) for (base, period), cost in sums.items()]
        return records + [record for _, record, _ in calls]


class SettledLately:
    """What was lately reported to Redis: should it lose its memory, the log may not have it yet.

    Kept by the second, so that a call costs no more than its place in a list.
    """

    def __init__(self) -> None:
        self._spans: deque[tuple[float, list[Record]]] = deque()
        self._newest: list[Record] = []
        self._full_at = 0.0

    def add(self, record: Record) -> None:
        now = time.monotonic()
        if now >= self._full_at:
            self._begin(now)
        self._newest.append(record)

    def again(self) -> list[Record]:
        """For a Redis that has lost its memory."""
        earliest = time.monotonic() - FORGOTTEN_SECONDS
        return [("F", *record[1:]) for end, span in self._spans if end >= earliest for record in span]

    def _begin(self, now: float) -> None:
        self._newest, self._full_at = [], now + 1
        self._spans.append((self._full_at, self._newest))
        while self._spans[0][0] < now - FORGOTTEN_SECONDS:
            self._spans.popleft()
