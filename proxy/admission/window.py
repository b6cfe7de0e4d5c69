"""A sliding minute that never lets more through than its limit."""

import math
from collections import deque

from proxy.admission.base import Headroom

MINUTE = 60.0
BUCKET = 0.25  # seconds; counts of one bucket leave together, when the youngest of them is a minute old


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

    __slots__ = ("_buckets", "_leaves", "total")

    def __init__(self) -> None:
        self._buckets: deque[Bucket] = deque()
        self._leaves = math.inf  # when the oldest bucket does
        self.total = 0

    def advance(self, now: float) -> None:
        while now >= self._leaves:
            self.total -= self._buckets.popleft().amount
            self._leaves = self._buckets[0].start + BUCKET + MINUTE if self._buckets else math.inf

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
                return bucket.start + BUCKET + MINUTE - now
        return MINUTE

    def add(self, amount: int, now: float) -> Bucket:
        """Count `amount`; the bucket it is in is needed to correct it."""
        if now >= self._leaves:
            self.advance(now)
        buckets = self._buckets
        if not buckets or now >= buckets[-1].start + BUCKET:
            buckets.append(Bucket(now))
            if len(buckets) == 1:
                self._leaves = now + BUCKET + MINUTE
        bucket = buckets[-1]
        bucket.amount += amount
        self.total += amount
        return bucket

    def correct(self, bucket: Bucket, difference: int, now: float) -> None:
        """Change what was counted. Where its minute has passed there is nothing left to change."""
        if now >= self._leaves:
            self.advance(now)
        if self._buckets and bucket.start >= self._buckets[0].start:
            bucket.amount += difference
            self.total += difference

    def clears_in(self, now: float) -> float:
        """Seconds until nothing is counted any more."""
        if now >= self._leaves:
            self.advance(now)
        return self._buckets[-1].start + BUCKET + MINUTE - now if self._buckets else 0.0

    def headroom(self, limit: int, now: float) -> Headroom:
        """Of a limit on this window's amounts."""
        reset = self.clears_in(now)  # before the total is read: it lets old amounts go
        left = limit - self.total
        return Headroom(limit, left if left > 0 else 0, reset)
