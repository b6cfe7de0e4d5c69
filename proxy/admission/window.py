"""A sliding minute that never lets more through than its limit."""

import math
from collections import deque

from proxy.admission.base import Headroom

MINUTE = 60.0
BUCKET = 0.25  # seconds; counts of one bucket leave together, when the youngest of them is a minute old
KEPT = BUCKET + MINUTE  # seconds from a bucket's start until it leaves


class Bucket:
    __slots__ = ("amount", "start")

    def __init__(self, start: float) -> None:
        self.start = start
        self.amount = 0


class SlidingWindow:
    """Amounts of the last 60 s. Times are monotonic seconds and never go back.

    In no 60 s is more admitted than the limit: a bucket counts until all that is in it is older
    than that. The price is that an amount may count up to BUCKET longer than it must.
    """

    __slots__ = ("_buckets", "_full_at", "_leaves", "_newest", "total")

    def __init__(self) -> None:
        self._buckets: deque[Bucket] = deque()
        self._newest = Bucket(-math.inf)
        self._full_at = -math.inf  # when the newest bucket takes no more, or the oldest one leaves
        self._leaves = math.inf  # when the oldest bucket does
        self.total = 0

    def advance(self, now: float) -> None:
        while now >= self._leaves:
            self.total -= self._buckets.popleft().amount
            self._leaves = self._buckets[0].start + KEPT if self._buckets else math.inf

    def wait_for(self, amount: int, limit: int, now: float) -> float:
        """Seconds until `amount` fits under `limit`; 0 if it does now, MINUTE if it never will."""
        if now >= self._leaves:
            self.advance(now)
        excess = self.total + amount - limit
        if excess <= 0:
            return 0.0
        for bucket in self._buckets:
            excess -= bucket.amount
            if excess <= 0:
                return bucket.start + KEPT - now
        return MINUTE

    def add(self, amount: int, now: float) -> Bucket:
        """Count `amount`; the bucket it is in is needed to correct it."""
        if now >= self._full_at:
            self._begin_bucket(now)
        bucket = self._newest
        bucket.amount += amount
        self.total += amount
        return bucket

    def _begin_bucket(self, now: float) -> None:
        self.advance(now)
        buckets = self._buckets
        if not buckets or now >= self._newest.start + BUCKET:
            self._newest = Bucket(now)
            buckets.append(self._newest)
            self._leaves = buckets[0].start + KEPT
        self._full_at = min(self._newest.start + BUCKET, self._leaves)

    def correct(self, bucket: Bucket, difference: int, now: float) -> None:
        """Change what was counted. Where its minute has passed there is nothing left to change."""
        if now < bucket.start + KEPT:
            bucket.amount += difference
            self.total += difference

    def clears_in(self, now: float) -> float:
        """Seconds until nothing is counted any more."""
        if now >= self._leaves:
            self.advance(now)
        return self._newest.start + KEPT - now if self._buckets else 0.0

    def headroom(self, limit: int, now: float) -> Headroom:
        """Of a limit on this window's amounts."""
        if now >= self._leaves:
            self.advance(now)
        left = limit - self.total
        reset = self._newest.start + KEPT - now if self._buckets else 0.0
        return Headroom(limit, left if left > 0 else 0, reset)
