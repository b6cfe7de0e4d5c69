"""Checks shared by the routing models, each with a message that says what is allowed."""

import json
import re
from typing import Any
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from routing import addresses, secret_headers

slug_validator = RegexValidator(
    r"^[a-z0-9][a-z0-9._-]{0,63}\Z",
    "Allowed are 1 to 64 lower-case letters, digits, dots, dashes and underscores, a letter or digit first.",
)

_HEADER_NAME = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}\Z")
_TAG = re.compile(r"^(?! )[ -+\--~]{1,64}(?<! )\Z")


# Blanks, control characters, and a backslash: some libraries take it for a slash, others for a letter.
_NOT_IN_A_URL = re.compile(r"[\s\\\x00-\x20\x7f]")


def validate_url(value: str, allowed: str) -> None:
    """An http(s) URL without a user; plain host names (a container's, localhost) are allowed."""
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 raises ValueError
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or _NOT_IN_A_URL.search(value):
        raise ValidationError(allowed)
    if "@" in parts.netloc:
        raise ValidationError("A URL with a user or password in it isn't allowed: use the API key.")


def validate_base_url(value: str) -> None:
    """Of a provider."""
    allowed = "Allowed is an http or https URL without query, for example https://api.openai.com/v1."
    validate_url(value, allowed)
    if "?" in value or "#" in value:
        raise ValidationError(allowed)
    try:
        addresses.for_providers().check_url(value)
    except addresses.AddressRefused as why:
        raise ValidationError(f"{why}. docs/settings.md says what PROVIDER_NETWORKS opens.") from None


def validate_headers(value: Any) -> None:
    """A JSON object of header names to one-line texts."""
    if not isinstance(value, dict):
        raise ValidationError('Allowed is a JSON object, for example {"x-team": "search"}.')
    lowered = [name.lower() for name in value]
    for name, text in value.items():
        if lowered.count(name.lower()) > 1:
            raise ValidationError(f"{name} is there twice: header names have no case.")
        if not _HEADER_NAME.match(name):
            raise ValidationError(f"{name!r} is not a header name: allowed are letters, digits and dashes.")
        if name.lower() in secret_headers.REFUSED:
            raise ValidationError(f"{name} is set by the gateway itself and can't be listed here.")
        if not isinstance(text, str) or not text.isprintable() or not text.isascii() or len(text) > 4000:
            raise ValidationError(
                f"{name}: allowed is one line of printable ASCII text, up to 4,000 characters."
            )


def validate_names(value: Any) -> None:
    """A JSON list of different, non-empty names."""
    if not isinstance(value, list) or not all(isinstance(name, str) and name.strip() for name in value):
        raise ValidationError('Allowed is a JSON list of names, for example ["gpt-4", "best"].')
    if len(set(value)) != len(value):
        raise ValidationError("A name is listed twice: list each one once.")


def validate_tags(value: Any) -> None:
    """A JSON list of different tags that fit into the x-litellm-tags header."""
    validate_names(value)
    for tag in value:
        if not _TAG.match(tag):
            raise ValidationError(
                f"{tag!r} is not a tag: allowed are up to 64 printable ASCII characters without commas, "
                "no blank at either end."
            )


def validate_origins(value: Any) -> None:
    """A JSON list of web origins: scheme and host, no path."""
    validate_names(value)
    for origin in value:
        if origin != "*" and not re.match(r"^https?://[^/\s?#]+\Z", origin):
            raise ValidationError(
                f"{origin!r} is not an origin: allowed are a scheme and a host without a path, "
                'for example "https://app.example.com".'
            )


def validate_parameters(value: Any) -> None:
    """A JSON object of request parameters; what the gateway sets itself is refused."""
    if not isinstance(value, dict):
        raise ValidationError('Allowed is a JSON object, for example {"temperature": 0.7}.')
    for name in ("model", "messages", "stream"):
        if name in value:
            raise ValidationError(f"{name} belongs to the caller's request and can't have a default.")
    json.dumps(value)


SHORTEST_WORDS, MOST_WORDS = 4, 50  # characters of a line; lines


def validate_words(value: str) -> None:
    """Lines of text that are looked for in a provider's messages."""
    lines = [line.strip() for line in value.splitlines() if line.strip()]
    if len(lines) > MOST_WORDS or any(len(line) < SHORTEST_WORDS for line in lines):
        raise ValidationError(
            f"Allowed are up to {MOST_WORDS} lines, each of {SHORTEST_WORDS} characters or more: "
            "shorter ones would be found in anything."
        )


def words_field(meaning: str) -> models.TextField:
    return models.TextField(
        blank=True,
        default="",
        max_length=4000,
        validators=[validate_words],
        help_text=f"One saying a line, in any case. A 4xx that has one of them means that {meaning}.",
    )


def choice_constraint(model: str, field: str, choices: type[models.TextChoices]) -> models.CheckConstraint:
    """So that no bulk write stores a word that nothing knows."""
    allowed = ", ".join(value or "blank" for value in choices.values)
    return models.CheckConstraint(
        condition=Q(**{f"{field}__in": choices.values}),
        name=f"{model}_{field}_choice",
        violation_error_message=f"{field.replace('_', ' ').capitalize()}: allowed are {allowed}.",
    )


def _told(bound: float) -> str:
    """`g` rounds to six digits."""
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:,g}"


def range_constraint(
    model: str, field: str, low: float, high: float, *, nullable: bool = False
) -> models.CheckConstraint:
    inside = Q(**{f"{field}__gte": low, f"{field}__lte": high})
    condition = Q(**{f"{field}__isnull": True}) | inside if nullable else inside
    name = field.replace("_", " ").capitalize()
    return models.CheckConstraint(
        condition=condition,
        name=f"{model}_{field}_range",
        violation_error_message=f"{name}: allowed are {_told(low)} to {_told(high)}.",
    )
