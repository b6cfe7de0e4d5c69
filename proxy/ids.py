"""Time-ordered ids for calls."""

import os
import random
import time
import uuid

_dice = random.Random()  # ids are unique, not secret
_bits = _dice.getrandbits
os.register_at_fork(after_in_child=_dice.seed)  # two children would go on alike, and equal ids are one row

_MARKS = 0x7000_8000_0000_0000_0000  # version 7, variant 10
_RANDOM = 0x0FFF_3FFF_FFFF_FFFF_FFFF


def uuid7(at_ns: int | None = None) -> str:
    """A version 7 UUID in its usual spelling: 48 bits of Unix milliseconds, 74 random bits.

    `at_ns` is Unix time in nanoseconds, now where it is left out. Source: RFC 9562, 5.7.
    """
    number = (time.time_ns() if at_ns is None else at_ns) // 1_000_000 << 80 | _MARKS | _bits(80) & _RANDOM
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_id(at: float) -> uuid.UUID:
    """No id that was made at this moment (Unix seconds) or later is smaller."""
    return uuid.UUID(hex=f"{int(at * 1000):012x}{0:020x}")
