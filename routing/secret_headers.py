"""Headers that are sent to a provider: which names can't be set, and whose values are credentials."""

import re
from collections.abc import Mapping

from routing import credentials

REFUSED = frozenset(
    {
        # what the connection is made of: RFC 9110, 7.6.1
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        # what belongs to the request itself, or to the API key
        "authorization",
        "content-encoding",
        "content-length",
        "expect",
        "host",
    }
)
_SECRET = re.compile(
    r"key|token|secret|passw|credential|cookie|signature|bearer|auth(?!ors?\b)", re.IGNORECASE
)
SHORTEST_SEARCHED = 8  # characters; texts are not searched for shorter values: "test" is also a word


def is_secret(name: str) -> bool:
    """Whether a header of this name holds a credential."""
    return _SECRET.search(name) is not None


def split(headers: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """(those that anybody may see, those that hold credentials)"""
    plain = {name: text for name, text in headers.items() if not is_secret(name)}
    return plain, {name: text for name, text in headers.items() if is_secret(name)}


def masked(headers: Mapping[str, str]) -> dict[str, str]:
    """For pages. A masked value is no header's value: it begins with a character that none may have."""
    return {name: credentials.mask(text) if is_secret(name) else text for name, text in headers.items()}


def is_masked(text: object) -> bool:
    return isinstance(text, str) and "…" in text


def unmasked(given: Mapping[str, str], stored: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What was meant by `given`, an edited copy of masked(stored), and the names whose stored value stays.

    A masked value that stands for none stays masked.
    """
    known = {name.lower(): text for name, text in stored.items() if is_secret(name)}
    meant, kept = dict(given), []
    for name, text in given.items():
        secret = known.get(name.lower())
        if secret is not None and is_masked(text) and text == credentials.mask(secret):
            meant[name] = secret
            kept.append(name)
    return meant, kept


def searched(credential: str, headers: Mapping[str, str]) -> tuple[str, ...]:
    """What is looked for in a provider's words: each credential, also without a scheme such as Bearer."""
    secrets = [credential]
    for text in split(headers)[1].values():
        secrets += [text, *(part for part in re.split(r"[\s;,]+", text) if part != text)]
        secrets += [part.partition("=")[2] for part in re.split(r"[\s;,]+", text)]
    long = {secret for secret in secrets if len(secret) >= SHORTEST_SEARCHED}
    return tuple(sorted(long, key=len, reverse=True))  # the longest first: it may contain the others
