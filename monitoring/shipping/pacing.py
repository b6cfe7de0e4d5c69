"""When the shipper rests, so that requests get the processor that they want."""

import time
from pathlib import Path

STARVED = 0.95
"""Of a turn's time, spent waiting for a processor: from here on shipping goes nowhere, and only disturbs."""

RESTS = 4  # times as long as such a turn took
LONGEST_REST = 3.0  # seconds


class Pace:
    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A turn of work, of the thread that calls this."""
        self._began, self._waited = time.monotonic(), _waited_seconds()

    def rest(self) -> float:
        """Seconds to rest after the turn; 0 where it got its share, or the system doesn't tell."""
        lasted = time.monotonic() - self._began
        if _waited_seconds() - self._waited < STARVED * lasted:
            return 0.0
        return min(RESTS * lasted, LONGEST_REST)


def _waited_seconds() -> float:
    """How long this thread was ready to run while others ran. Source: Linux, sched-stats.rst."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
