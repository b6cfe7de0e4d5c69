"""How long to wait before the same target is asked again."""

import random

LONGEST_PAUSE = 60.0  # seconds


def backoff(retry_delay: float, number: int, told: float | None, dice: random.Random) -> float:
    """Seconds before retry `number` (0 is the first): 0 to min(retry_delay * 2**number, 60), at random.

    Full jitter, so that callers who failed together don't come back together. What the provider asked
    for (Retry-After), where that is longer, counts instead.
    Source: "Exponential Backoff And Jitter", AWS Architecture Blog (2015).
    """
    return max(dice.uniform(0.0, min(retry_delay * 2**number, LONGEST_PAUSE)), told or 0.0)
