"""Limits how often one address may present a wrong key; good keys are never kept out."""

import time
from collections.abc import Callable, Mapping

from proxy.access.client_address import TrustedProxies, counted_as
from proxy.admission.window import SlidingWindow
from proxy.errors import InvalidApiKey, RateLimited

MOST_KEPT = 10_000


class FailedAuth:
    """Failures of the last minute: wrong keys, tokens and passwords, by address or whatever they count by.

    Counts in this process. Where there is Redis, `tell` lets the others know, and learn() says what
    all of them have seen: each process lets one failure through before it knows.
    """

    def __init__(
        self,
        per_minute: int,
        proxies: TrustedProxies | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_minute = per_minute
        self.tell: Callable[[str], None] | None = None
        self._proxies = proxies or TrustedProxies(())
        self._clock = clock
        self._failures: dict[str, SlidingWindow] = {}
        self._everywhere: dict[str, tuple[int, float]] = {}  # of all processes, and until when

    def count(
        self, peer: str, headers: Mapping[bytes, bytes], error: InvalidApiKey
    ) -> InvalidApiKey | RateLimited:
        """What to answer to one more failure: `error`, or 429 beyond the limit of its address."""
        address = counted_as(self._proxies.client_of(peer, headers))
        if wait := self.wait(address, self.per_minute):
            return RateLimited(
                f"Too many failed authentications from this address: try again in {wait:.0f} s, "
                "or with a valid API key.",
                retry_after=wait,
            )
        self.add(address)
        return error

    def wait(self, who: str, most: int) -> float:
        """Seconds until one more failure is within `most` a minute; 0 where it is now."""
        now = self._clock()
        total, until = self._everywhere.get(who, (0, 0.0))
        if total >= most and until > now:
            return until - now
        window = self._failures.get(who)
        return 0.0 if window is None else window.wait_for_request(most, now)

    def add(self, who: str) -> None:
        now = self._clock()
        window = self._failures.get(who)
        if window is None:
            if len(self._failures) >= MOST_KEPT:
                self._forget(now)
            window = self._failures[who] = SlidingWindow()
        window.add(1, 0, now)
        if self.tell is not None:
            self.tell(who)

    def learn(self, who: str, total: int, seconds: float) -> None:
        """So many failures were seen by all processes; they count for so long."""
        now = self._clock()
        if len(self._everywhere) >= MOST_KEPT:
            kept = {one: told for one, told in list(self._everywhere.items()) if told[1] > now}
            self._everywhere = dict(list(kept.items())[-MOST_KEPT // 2 :])
        self._everywhere[who] = (total, now + seconds)

    def _forget(self, now: float) -> None:
        """Those of the last minute stay, and where these are too many, the newest half of them."""
        found = list(self._failures.items())  # at once: other threads add
        kept = {who: window for who, window in found if window.clears_in(now)}
        self._failures = dict(list(kept.items())[-MOST_KEPT // 2 :])
