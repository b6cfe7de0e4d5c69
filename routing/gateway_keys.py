"""Gateway API keys: made from 256 random bits, stored as SHA-256 only."""

import hashlib
import secrets

OWN_PREFIX = "sk-sw-"  # no provider's keys begin so; clients of OpenAI's want the sk-
PREFIX_LENGTH = 12  # characters kept in clear, so that an admin recognises a key
SHORTEST = 20  # characters of a key that an admin brings along: what is shorter can be guessed


def generate() -> str:
    return f"{OWN_PREFIX}{secrets.token_urlsafe(32)}"


def digest(plaintext: str | bytes) -> bytes:
    """SHA-256, 32 bytes. A slow hash would add nothing: the keys are random, not chosen."""
    raw = plaintext.encode() if isinstance(plaintext, str) else plaintext
    return hashlib.sha256(raw).digest()


def shown_prefix(plaintext: str) -> str:
    """At most a third of the key, so that a short one isn't given away."""
    return plaintext[: min(PREFIX_LENGTH, len(plaintext) // 3)]
