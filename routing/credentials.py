"""Provider credentials at rest: Fernet tokens under the newest of ENCRYPTION_KEYS."""

from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured


class CredentialUnreadable(Exception):
    """No key in ENCRYPTION_KEYS decrypts the stored credential."""


@lru_cache(maxsize=4)
def _cipher(keys: tuple[str, ...]) -> MultiFernet:
    try:
        return MultiFernet([Fernet(key.strip()) for key in keys])
    except ValueError as error:
        raise ImproperlyConfigured(
            "ENCRYPTION_KEYS: each must be 32 bytes in URL-safe base64 (44 characters), "
            "newest first, separated by commas."
        ) from error


def encrypt(plaintext: str) -> str:
    """The token to store; an empty credential stays empty."""
    return _cipher(tuple(settings.ENCRYPTION_KEYS)).encrypt(plaintext.encode()).decode() if plaintext else ""


def encrypt_bytes(content: bytes) -> str:
    return _cipher(tuple(settings.ENCRYPTION_KEYS)).encrypt(content).decode()


def decrypt_bytes(token: str) -> bytes:
    """Raises CredentialUnreadable."""
    try:
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).decrypt(token.encode())
    except InvalidToken:
        raise CredentialUnreadable(
            "It can't be decrypted: ENCRYPTION_KEYS lacks the key it was stored under."
        ) from None


def decrypt(token: str) -> str:
    """The credential in plain text. Raises CredentialUnreadable."""
    if not token:
        return ""
    try:
        return _cipher(tuple(settings.ENCRYPTION_KEYS)).decrypt(token.encode()).decode()
    except InvalidToken:
        raise CredentialUnreadable(
            "The stored API key can't be decrypted: ENCRYPTION_KEYS lacks the key it was stored under."
        ) from None


def rotate(token: str) -> str:
    """The same credential under the newest key. Raises CredentialUnreadable."""
    return encrypt_bytes(decrypt_bytes(token)) if token else ""


def mask(plaintext: str) -> str:
    """What a page may show: the last four characters of a long credential, else none."""
    if not plaintext:
        return ""
    return f"…{plaintext[-4:]}" if len(plaintext) >= 16 else "…"
