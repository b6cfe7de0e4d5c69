"""The live state of one target in this process, its circuit breaker included.

Written on the event loop; other threads only read it, or set plain values (see sharing.py).
"""

import math
import time
from enum import Enum

from proxy.breaker.window import ErrorWindow
from routing.table import BreakerRules

NEWEST_WEIGHT = 0.3  # of a new measurement in the mean, more where the last one is long ago
MEAN_SECONDS = 10.0  # a measurement that old counts for little
SOON = -MEAN_SECONDS * math.log(1 - NEWEST_WEIGHT)  # seconds; until then the newest has its usual weight
FIRST_PAUSE = 1.0  # seconds after a 429 that names no time; doubles each time, up to the cooldown


class Standing(Enum):
    READY = "closed"
    PROBE = "half-open"  # one request may try it
    PROBING = "half-open, one request is trying it"
    BROKEN = "open"
    COOLING = "rate limited"


class TargetState:
    """Times are monotonic seconds; 0 is never. Means are in milliseconds, of successes only."""

    __slots__ = (
        "_limited_in_a_row",
        "changes",
        "closed_at",
        "cooling_until",
        "failures_in_a_row",
        "in_flight",
        "last_error",
        "last_error_at",
        "measured_at",
        "open_until",
        "opened_at",
        "probing",
        "total_ms",
        "troubled",
        "ttft_ms",
        "unpaid_to",
        "why",
        "window",
    )

    def __init__(self) -> None:
        self.in_flight = 0
        self.ttft_ms: float | None = None
        self.total_ms: float | None = None
        self.measured_at = 0.0
        self.window = ErrorWindow()
        self.failures_in_a_row = 0
        self.last_error = ""
        self.last_error_at = 0.0  # Unix time
        self.unpaid_to: int | None = None  # the first key that met words of money
        self.troubled = False  # whether open_until or cooling_until is set: the one look of the hot path
        self.open_until = 0.0
        self.opened_at = 0.0
        self.closed_at = 0.0
        self.cooling_until = 0.0
        self.probing = False
        self.why = ""  # it is open or cooling
        self.changes = 0  # raised by what other processes must learn
        self._limited_in_a_row = 0

    def standing(self, now: float) -> Standing:
        if not self.troubled:
            return Standing.READY
        if now < self.cooling_until:
            return Standing.COOLING
        if not self.open_until:
            return Standing.READY
        if now < self.open_until:
            return Standing.BROKEN
        return Standing.PROBING if self.probing else Standing.PROBE

    def wait(self, now: float) -> float:
        """Seconds until it may be tried again; 0 where it may be now."""
        return max(self.cooling_until - now, self.open_until - now, 0.0)

    def succeeded(self, now: float) -> None:
        """A call came to its good end."""
        self.window.add(now, failed=False)
        self.failures_in_a_row = self._limited_in_a_row = 0

    def answers(self, started: float, now: float) -> None:
        """The whole answer or its first bytes came."""
        # An answer to what was asked before it opened says nothing about now.
        if not self.troubled:
            return
        if self.open_until and started >= self.opened_at:
            self.close(now)
        elif not self.open_until and now >= self.cooling_until:
            self.troubled, self.why = False, ""

    def failed(self, error: str, started: float, now: float, rules: BreakerRules) -> None:
        self.note(error)
        if started < self.closed_at:
            return  # asked before it was mended
        self.window.add(now, failed=True)
        self.failures_in_a_row += 1
        if not rules.enabled:
            return
        if not self.open_until:
            if why := self._verdict(rules):
                self.open(now, now + rules.cooldown, why)
        elif now >= self.open_until and started >= self.open_until:
            self.open(now, now + rules.cooldown, "the trial request failed")

    def limited(self, error: str, seconds: float | None, now: float, rules: BreakerRules) -> None:
        """A 429. `seconds` is how long the provider said to wait, None where it didn't."""
        self.note(error)
        if not rules.enabled:
            return
        if seconds is None:
            seconds = min(FIRST_PAUSE * 2 ** min(self._limited_in_a_row, 12), rules.cooldown)
        self._limited_in_a_row += 1
        if now + seconds > self.cooling_until:
            self.cool(now + seconds)

    def note(self, error: str) -> None:
        self.last_error, self.last_error_at = error[:200], time.time()

    def _verdict(self, rules: BreakerRules) -> str:
        if self.failures_in_a_row >= rules.failures:
            return f"{self.failures_in_a_row} failures in a row"
        window = self.window
        if window.requests >= rules.min_requests and window.failures >= rules.error_share * window.requests:
            return f"{window.failures} of {window.requests} requests failed in the last minute"
        return ""

    def open(self, now: float, until: float, why: str) -> None:
        self.why = why
        self.probing = False
        self.opened_at, self.open_until = now, until
        self.troubled = True
        self.changes += 1

    def cool(self, until: float) -> None:
        self.why = "the provider answered 429"
        self.cooling_until = until
        self.troubled = True
        self.changes += 1

    def close(self, now: float) -> None:
        """As if it had never failed; its means stay."""
        self.troubled = self.probing = False
        self.open_until = self.cooling_until = 0.0
        self.closed_at = now
        self.failures_in_a_row = self._limited_in_a_row = 0
        self.why = ""
        self.window.clear()
        self.changes += 1

    def learn(self, open_until: float, cooling_until: float, why: str, now: float) -> None:
        """Take over what another process found out; not told on."""
        if open_until:
            self.opened_at = now
        elif self.open_until:
            self.closed_at = now
            self.failures_in_a_row = self._limited_in_a_row = 0
            self.window.clear()
        self.open_until, self.cooling_until, self.why = open_until, cooling_until, why
        self.troubled = bool(open_until or cooling_until)

    def measured(self, ms: float, now: float, *, stream: bool) -> None:
        share, age = NEWEST_WEIGHT, now - self.measured_at
        if age > SOON:
            share = 1 - math.exp(-age / MEAN_SECONDS)
        if stream:
            self.ttft_ms = ms if self.ttft_ms is None else self.ttft_ms + share * (ms - self.ttft_ms)
        else:
            self.total_ms = ms if self.total_ms is None else self.total_ms + share * (ms - self.total_ms)
        self.measured_at = now
