"""Credentials in a file: providers' API keys and gateway keys. Their values get into no message."""

import re
from typing import Any

from django.conf import settings

from routing import credentials, gateway_keys
from routing.config.plan import Credential, GatewaySecret
from routing.config.section import ABSENT, Section

ENCRYPTED = "encrypted:"
_HASH = re.compile(r"[0-9a-f]{64}")
_ONE_WORD = re.compile(r"[!-~]+")


TOO_SHORT = (
    f"has fewer than {gateway_keys.SHORTEST} characters: it is loaded, and whoever tries long enough "
    "guesses it; give the apps a new key (manage.py create_key) and take this one out"
)


def key_problem(plaintext: str) -> str:
    """What is wrong with a new gateway key, "" where nothing is."""
    if len(plaintext) < gateway_keys.SHORTEST or not _ONE_WORD.fullmatch(plaintext):
        return f"allowed are {gateway_keys.SHORTEST} or more printable ASCII characters without blanks"
    return ""


def read_credential(section: Section, name: str = "api_key") -> Any:
    """A provider's API key, in plain text or as dump_config wrote it."""
    raw = section.raw(name)
    if isinstance(raw, str) and raw.startswith(ENCRYPTED):
        return _decrypted(section, name, raw.removeprefix(ENCRYPTED))
    value = section.text(name)
    if value is ABSENT or value == "" or _ONE_WORD.fullmatch(value):
        return value if value is ABSENT else Credential(value)
    return section.problem(name, "allowed are printable ASCII characters without blanks")


def read_secret_headers(section: Section) -> Any:
    """A provider's extra headers that hold credentials, as dump_config wrote them."""
    raw = section.raw("encrypted_headers")
    if raw is ABSENT:
        return ABSENT
    if isinstance(raw, str) and raw.startswith(ENCRYPTED):
        return _decrypted(section, "encrypted_headers", raw.removeprefix(ENCRYPTED))
    return section.problem(
        "encrypted_headers", "allowed is what dump_config wrote; in plain text they belong into extra_headers"
    )


def _decrypted(section: Section, name: str, token: str) -> Any:
    try:
        plaintext = credentials.decrypt(token)
    except credentials.CredentialUnreadable:
        plaintext = ""
    if plaintext:
        return Credential(plaintext, token)
    return section.problem(
        name, "can't be decrypted: it was encrypted under a key that is not in ENCRYPTION_KEYS, or is damaged"
    )


def read_secret(section: Section, name: str, key_name: str) -> list[GatewaySecret]:
    """The gateway key that stands in plain text below `name`, if any; a short one is one that apps hold."""
    value = section.text(name)
    if value is ABSENT:
        return []
    if not _ONE_WORD.fullmatch(value):
        section.problem(name, "allowed are printable ASCII characters without blanks")
        return []
    if len(value) < gateway_keys.SHORTEST:
        section.notes.warn(section.at(name), TOO_SHORT)
    if value == settings.MASTER_KEY:
        section.notes.warn(section.at(name), "is the MASTER_KEY of the environment, which holds already")
        return []
    key_hash = gateway_keys.digest(value).hex()
    return [GatewaySecret(key_name, key_hash, gateway_keys.shown_prefix(value), section.at(name))]


def read_hash(section: Section, name: str) -> Any:
    value = section.needed_text(name)
    if value is ABSENT or _HASH.fullmatch(value):
        return value
    return section.problem(name, "allowed is a SHA-256 hash: 64 digits 0-9 and a-f")
