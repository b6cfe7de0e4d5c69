"""Limits how often one address may present a wrong key; good keys are never kept out."""

import time
from collections.abc import Callable, Mapping

from proxy.admission.window import SlidingWindow
from proxy.client_address import TrustedProxies, counted_as
from proxy.errors import InvalidApiKey, RateLimited

MOST_ADDRESSES = 10_000


class FailedAuth:
    """Counts in this process: each web process allows as many of its own."""

    def __init__(
        self,
        per_minute: int,
        proxies: TrustedProxies | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = per_minute
        self._proxies = proxies or TrustedProxies(())
        self._clock = clock
        self._failures: dict[str, SlidingWindow] = {}

    def count(
        self, peer: str, headers: Mapping[bytes, bytes], error: InvalidApiKey
    ) -> InvalidApiKey | RateLimited:
        """What to answer to one more failure: `error`, or 429 beyond the limit of its address."""
        address = counted_as(self._proxies.client_of(peer, headers))
        now = self._clock()
        window = self._failures.get(address)
        if window is None:
            if len(self._failures) >= MOST_ADDRESSES:
                self._forget(now)
            window = self._failures[address] = SlidingWindow()
        if wait := window.wait_for_request(self._per_minute, now):
            return RateLimited(
                f"Too many failed authentications from this address: try again in {wait:.0f} s, "
                "or with a valid API key.",
                retry_after=wait,
            )
        window.add(1, 0, now)
        return error

    def _forget(self, now: float) -> None:
        """Those of the last minute stay, and where these are too many, the newest half of them."""
        kept = {address: window for address, window in self._failures.items() if window.clears_in(now)}
        self._failures = dict(list(kept.items())[-MOST_ADDRESSES // 2 :])
