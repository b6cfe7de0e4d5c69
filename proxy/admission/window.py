"""A sliding minute that never lets more through than its limits."""

import math
from collections import deque

from proxy.admission.base import RateLimitState, RateLimitStates
from routing.table import Limits

MINUTE = 60.0
BUCKET = 0.25  # seconds; counts of one bucket leave together, when the youngest of them is a minute old
KEPT = BUCKET + MINUTE  # seconds from a bucket's start until it leaves


class Bucket:
    __slots__ = ("leaves", "requests", "start", "tokens")

    def __init__(self, start: float) -> None:
        self.start = start
        self.leaves = start + KEPT
        self.requests = 0
        self.tokens = 0


class SlidingWindow:
    """Requests and tokens of the last 60 s. Times are monotonic seconds and never go back.

    In no 60 s is more admitted than a limit: a bucket counts until all that is in it is older
    than that. The price is that an amount may count up to BUCKET longer than it must.
    """

    __slots__ = ("_buckets", "_full_at", "_leaves", "_newest", "requests", "tokens")

    def __init__(self) -> None:
        self._buckets: deque[Bucket] = deque()
        self._newest = Bucket(-math.inf)
        self._full_at = -math.inf  # when the newest bucket takes no more, or the oldest one leaves
        self._leaves = math.inf  # when the oldest bucket does
        self.requests = 0
        self.tokens = 0

    def advance(self, now: float) -> None:
        while now >= self._leaves:
            left = self._buckets.popleft()
            self.requests -= left.requests
            self.tokens -= left.tokens
            self._leaves = self._buckets[0].leaves if self._buckets else math.inf

    def wait_for_request(self, limit: int, now: float) -> float:
        """Seconds until one more fits under `limit`; 0 if it does now, MINUTE if it never will."""
        if now >= self._leaves:
            self.advance(now)
        excess = self.requests + 1 - limit
        if excess <= 0:
            return 0.0
        return self._wait([bucket.requests for bucket in self._buckets], excess, now)

    def wait_for_tokens(self, tokens: int, limit: int, now: float) -> float:
        """Seconds until so many fit under `limit`; 0 if they do now, MINUTE if they never will."""
        if now >= self._leaves:
            self.advance(now)
        excess = self.tokens + tokens - limit
        if excess <= 0:
            return 0.0
        return self._wait([bucket.tokens for bucket in self._buckets], excess, now)

    def _wait(self, amounts: list[int], excess: int, now: float) -> float:
        for bucket, amount in zip(self._buckets, amounts, strict=True):
            excess -= amount
            if excess <= 0:
                return bucket.leaves - now
        return MINUTE

    def add(self, requests: int, tokens: int, now: float) -> Bucket:
        """Count them; the bucket they are in is needed to correct them."""
        if now >= self._full_at:
            self._begin_bucket(now)
        bucket = self._newest
        bucket.requests += requests
        bucket.tokens += tokens
        self.requests += requests
        self.tokens += tokens
        return bucket

    def _begin_bucket(self, now: float) -> None:
        self.advance(now)
        buckets = self._buckets
        if not buckets or now >= self._newest.start + BUCKET:
            self._newest = Bucket(now)
            buckets.append(self._newest)
            self._leaves = buckets[0].leaves
        self._full_at = min(self._newest.start + BUCKET, self._leaves)

    def correct(self, bucket: Bucket, tokens: int, now: float) -> None:
        """Change by so many what was counted. Where its minute has passed there is nothing to change."""
        if now < bucket.leaves:
            bucket.tokens += tokens
            self.tokens += tokens

    def clears_in(self, now: float) -> float:
        """Seconds until nothing is counted any more."""
        if now >= self._leaves:
            self.advance(now)
        return self._newest.leaves - now if self._buckets else 0.0

    def rate_limits(self, limits: Limits, now: float) -> RateLimitStates:
        if now >= self._leaves:
            self.advance(now)
        reset = self._newest.leaves - now if self._buckets else 0.0
        rpm, tpm = limits.rpm, limits.tpm
        requests = tokens = None
        if rpm is not None:
            requests = RateLimitState(rpm, rpm - self.requests if rpm > self.requests else 0, reset)
        if tpm is not None:
            tokens = RateLimitState(tpm, tpm - self.tokens if tpm > self.tokens else 0, reset)
        return requests, tokens
