"""Time-ordered ids for calls."""

import random
import time

_bits = random.Random().getrandbits  # ids are unique, not secret


def uuid7() -> str:
    """A version 7 UUID in its usual spelling: 48 bits of Unix milliseconds, 74 random bits.

    Source: RFC 9562, 5.7.
    """
    ms, bits = time.time_ns() // 1_000_000, _bits(74)
    variant = 0x8000 | bits >> 12 & 0x3FFF
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{bits & 0xFFF:03x}-{variant:04x}-{bits >> 26:012x}"
