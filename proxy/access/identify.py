"""Step 1: whose key is it? Looked up in the table by SHA-256, never in the database."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from proxy.errors import InvalidApiKey, NotReady
from routing.gateway_keys import OWN_PREFIX, digest
from routing.table import KeyEntry, RoutingTable

KEY_HEADERS = (b"x-api-key", b"api-key")
"""Where Anthropic's and Azure's clients put the key."""
LONGEST_KEPT = 512
"""Bytes of a header up to which its key's hash is remembered."""
SHOWN, SHOWN_SHARE = 6, 3
"""Of a wrong key at most so many characters are shown, and no more than a third."""
LONGEST_KEY = 8 * 1024
"""Bytes; a longer one is not looked up."""
UNREADABLE = "The gateway can't read the settings of this API key: an admin must mend them."
_OWN_PREFIX = OWN_PREFIX.encode()
_CREDENTIALS = frozenset((b"authorization", b"x-litellm-api-key", *KEY_HEADERS))


def identify(headers: Mapping[bytes, bytes], table: RoutingTable) -> tuple[KeyEntry, str]:
    """(the gateway key, the caller's own provider key or ""). Raises InvalidApiKey, or NotReady.

    Also InvalidApiKey while there is no table: the engine knows better.
    """
    own = b""
    if b"x-litellm-api-key" in headers:
        own = without_bearer(_bounded(headers[b"x-litellm-api-key"]).strip())
        hashed = digest(own)
        if own and (entry := table.keys.get(hashed)):
            return check_valid(entry), ""  # a gateway key authenticates, and is never sent upstream
        if hashed in table.unreadable_keys:
            raise NotReady(UNREADABLE)
        if hashed in table.retired_keys:
            raise InvalidApiKey(f"x-litellm-api-key holds a gateway key that {_retired(hashed, table)}.")
        if own.startswith(_OWN_PREFIX):
            raise InvalidApiKey("x-litellm-api-key holds a gateway key that is unknown.")
    presented = _digest_of(headers)
    if presented is None:
        raise InvalidApiKey("No API key: send Authorization: Bearer KEY.")
    entry = table.keys.get(presented)
    if entry is None:
        if presented in table.unreadable_keys:
            raise NotReady(UNREADABLE)
        retired = _retired(presented, table) if presented in table.retired_keys else ""
        raise _unknown(headers, retired)
    return check_valid(entry), own.decode("latin-1") if own else ""


def _retired(digested: bytes, table: RoutingTable) -> str:
    return f"was replaced or deleted{_on(table.retired_keys[digested])}"


def _on(moment: float | None) -> str:
    return "" if moment is None else f" on {datetime.fromtimestamp(moment, UTC):%Y-%m-%d at %H:%M} UTC"


def _unknown(headers: Mapping[bytes, bytes], retired: str) -> InvalidApiKey:
    """Said to who sent it only: no row and no log has this message."""
    names = (name for name in (b"authorization", *KEY_HEADERS) if headers.get(name, b"").strip())
    text = without_bearer(headers.get(next(names, b""), b"").strip()).decode("latin-1")
    shown = text[: min(SHOWN, len(text) // SHOWN_SHARE)]
    begins = f" It begins with {shown}." if shown.isascii() and shown.isprintable() and shown else ""
    if retired:
        return InvalidApiKey(f"This API key {retired}.{begins}")
    return InvalidApiKey(f"Unknown API key.{begins}")


def without_bearer(value: bytes) -> bytes:
    return value[7:].strip() if value[:7].lower() == b"bearer " else value


def presents_key(headers: Mapping[bytes, bytes]) -> bool:
    return not _CREDENTIALS.isdisjoint(headers)


def _digest_of(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Of the key that is presented; None where none is."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        found = _known_digest if len(authorization) <= LONGEST_KEPT else _bearer_digest
        if (digested := found(authorization)) is not None:
            return digested
    for name in KEY_HEADERS:
        if presented := _bounded(headers.get(name, b"")).strip():
            return digest(presented)
    return None


def _bounded(presented: bytes) -> bytes:
    """Raises InvalidApiKey."""
    if len(presented) > LONGEST_KEY:
        raise InvalidApiKey(f"Unknown API key: it is longer than {LONGEST_KEY:,} bytes.")
    return presented


def _bearer_digest(authorization: bytes) -> bytes | None:
    scheme, _, token = _bounded(authorization).strip().partition(b" ")
    token = token.strip()
    return digest(token) if token and scheme.lower() == b"bearer" else None


_known_digest = lru_cache(maxsize=4096)(_bearer_digest)  # whoever tries others: 3 MB at most


def check_valid(entry: KeyEntry) -> KeyEntry:
    """Raises InvalidApiKey for one that is revoked or has expired."""
    if not entry.enabled:
        raise InvalidApiKey(_revoked(entry))
    if entry.expires_at is not None and time.time() >= entry.expires_at:
        raise InvalidApiKey(f"This API key expired{_on(entry.expires_at)}.")
    return entry


def _revoked(entry: KeyEntry) -> str:
    if entry.off_with_team:
        return f"This API key is revoked: its team was disabled{_on(entry.revoked_at)}."
    if entry.revoked_at is None:
        return "This API key is revoked."
    return f"This API key was revoked{_on(entry.revoked_at)}."
