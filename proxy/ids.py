"""Time-ordered ids for calls."""

import random
import time
import uuid

_bits = random.Random().getrandbits  # ids are unique, not secret


def uuid7(at_ns: int | None = None) -> str:
    """A version 7 UUID in its usual spelling: 48 bits of Unix milliseconds, 74 random bits.

    `at_ns` is Unix time in nanoseconds, now where it is left out. Source: RFC 9562, 5.7.
    """
    moment = time.time_ns() if at_ns is None else at_ns
    digits = f"{moment // 1_000_000:012x}{_bits(76):019x}"
    variant = "89ab"[int(digits[15], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[12:15]}-{variant}{digits[16:19]}-{digits[19:31]}"


def first_id(at: float) -> uuid.UUID:
    """No id that was made at this moment (Unix seconds) or later is smaller."""
    return uuid.UUID(hex=f"{int(at * 1000):012x}{0:020x}")
