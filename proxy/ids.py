"""Time-ordered ids for calls."""

import random
import time
from uuid import UUID

_dice = random.Random()  # ids are unique, not secret


def uuid7() -> UUID:
    """A version 7 UUID: 48 bits of Unix milliseconds, then 74 random bits. Source: RFC 9562, 5.7."""
    value = (time.time_ns() // 1_000_000) << 80 | _dice.getrandbits(80)
    value = value & ~(0xF000 << 64) | 0x7000 << 64
    return UUID(int=value & ~(0xC000 << 48) | 0x8000 << 48)
