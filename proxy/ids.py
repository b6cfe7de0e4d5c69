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
    ms, bits = moment // 1_000_000, _bits(74)
    variant = 0x8000 | bits >> 12 & 0x3FFF
    return f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{bits & 0xFFF:03x}-{variant:04x}-{bits >> 26:012x}"


def first_id(at: float) -> uuid.UUID:
    """No id that was made at this moment (Unix seconds) or later is smaller."""
    return uuid.UUID(hex=f"{int(at * 1000):012x}{0:020x}")
