"""Credentials in a file: providers' API keys and gateway keys. Their values get into no message."""

import re
from typing import Any

from django.conf import settings

from routing import credentials, gateway_keys
from routing.config.plan import Credential, GatewaySecret
from routing.config.section import Section
from routing.config.values import ABSENT, Bad

ENCRYPTED = "encrypted:"
_HASH = re.compile(r"[0-9a-f]{64}")
_ONE_WORD = re.compile(r"[!-~]+")


TOO_SHORT = (
    f"has fewer than {gateway_keys.SHORTEST} characters: it is loaded, "
    "and whoever tries long enough guesses it"
)
_CREATE = "give the apps a new key (manage.py create_key) and take this one out"
_ONE_LINE = Bad(
    "allowed are printable ASCII characters without blanks", "write the credential as it was given"
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
    return section.leave_out(name, _ONE_LINE)


def read_secret_headers(section: Section) -> Any:
    """A provider's extra headers that hold credentials, as dump_config wrote them."""
    raw = section.raw("encrypted_headers")
    if raw is ABSENT:
        return ABSENT
    if isinstance(raw, str) and raw.startswith(ENCRYPTED):
        return _decrypted(section, "encrypted_headers", raw.removeprefix(ENCRYPTED))
    bad = Bad("allowed is what dump_config wrote", "write them in plain text below extra_headers")
    return section.leave_out("encrypted_headers", bad)


def _decrypted(section: Section, name: str, token: str) -> Any:
    try:
        plaintext = credentials.decrypt(token)
    except credentials.CredentialUnreadable:
        plaintext = ""
    if plaintext:
        return Credential(plaintext, token)
    return section.leave_out(
        name,
        Bad(
            "can't be decrypted: it was encrypted under a key that is not in ENCRYPTION_KEYS, or is damaged",
            "add that key to ENCRYPTION_KEYS, or write the credential in plain text",
        ),
    )


def read_secret(section: Section, name: str, key_name: str) -> list[GatewaySecret]:
    """The gateway key that stands in plain text below `name`, if any; a short one is one that apps hold."""
    value = section.text(name)
    if value is ABSENT:
        return []
    if not _ONE_WORD.fullmatch(value):
        section.leave_out(name, _ONE_LINE)
        return []
    if len(value) < gateway_keys.SHORTEST:
        section.notes.say(section.at(name), TOO_SHORT, _CREATE)
    if value == settings.MASTER_KEY:
        section.notes.say(
            section.at(name), "is the MASTER_KEY of the environment, which holds already", "take it out here"
        )
    key_hash = gateway_keys.digest(value).hex()
    return [GatewaySecret(key_name, key_hash, gateway_keys.shown_prefix(value), section.at(name))]


def hash_of(value: Any) -> Any:
    """For Section.read: a key is nothing without its hash."""
    if isinstance(value, str) and _HASH.fullmatch(value):
        return value
    return Bad("allowed is a SHA-256 hash: 64 digits 0-9 and a-f", "write the hash of the key")
