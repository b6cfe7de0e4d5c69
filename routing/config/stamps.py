"""Digests of a row's fields: what an admin has edited since a file wrote it, without keeping what it was."""

import hashlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.db import models

_ENCRYPTED = ("encrypted_api_key", "encrypted_headers")
"""Another text under another key, and still the same credential."""


def stamp(row: models.Model) -> dict[str, str]:
    """Of all fields that an admin may edit; related rows by their names, so that a renamed one shows."""
    found = {}
    for field in row._meta.concrete_fields:
        if field.editable and not field.primary_key and field.name not in _ENCRYPTED:
            found[field.name] = _digest(getattr(row, field.name))
    return found


def edited(row: models.Model, written: dict[str, str]) -> list[str]:
    """The fields that differ; one that came with a later release is none of them."""
    now = stamp(row)
    return [name for name, digest in written.items() if now.get(name, digest) != digest]


def _digest(value: Any) -> str:
    return hashlib.sha256(_word(value).encode()).hexdigest()[:16]


def _word(value: Any) -> str:
    match value:
        case bool() | None:
            return repr(value)
        case str():
            return repr(str(value))  # a choice is its own text
        case int() | float() | Decimal():
            return format(Decimal(str(value)).normalize(), "f")
        case datetime():
            return value.astimezone(UTC).isoformat()
        case models.Model():
            return str(getattr(value, "slug", None) or getattr(value, "name", value.pk))
        case _:
            return json.dumps(value, sort_keys=True, default=str)
