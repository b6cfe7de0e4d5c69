"""Time-ordered ids for calls."""

import random
import time

_bits = random.Random().getrandbits  # ids are unique, not secret


def uuid7() -> str:
    """A version 7 UUID in its usual spelling: 48 bits of Unix milliseconds, 74 random bits.

    Source: RFC 9562, 5.7.
    """
    digits = f"{time.time_ns() // 1_000_000:012x}{_bits(76):019x}"
    variant = "89ab"[int(digits[15], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[12:15]}-{variant}{digits[16:19]}-{digits[19:31]}"
