"""Latencies as counts by their logarithm: small, and sums of them give percentiles of any selection."""

import math
from collections.abc import Mapping

STEP = 1.1
"""Each bucket is 10 % wider than the one before, so a percentile is exact to 5 %."""

FASTEST_MS = 0.01
LOG_STEP = math.log(STEP)

Buckets = Mapping[str, int]
"""Calls by bucket; bucket n has what took STEP ** n to STEP ** (n + 1) milliseconds."""


def add(total: dict[str, int], more: Buckets) -> None:
    for bucket, count in more.items():
        total[bucket] = total.get(bucket, 0) + count


def percentile(buckets: Buckets, share: float) -> float | None:
    """Milliseconds within which this share (0 to 1) of the calls ended; None without calls."""
    calls = sum(buckets.values())
    if not calls:
        return None
    wanted = max(math.ceil(share * calls), 1)
    for bucket in sorted(int(name) for name in buckets):
        wanted -= buckets[str(bucket)]
        if wanted <= 0:
            return round(STEP ** (bucket + 0.5), 3)
    raise AssertionError("unreachable: the buckets' counts add up to all calls")
