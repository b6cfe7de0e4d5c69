"""Content logging: how much of what is asked and answered is kept."""

from typing import Any

import re2
from django.core.exceptions import ValidationError
from django.db import models

from routing.table import CONTENT_FULL, CONTENT_METADATA, CONTENT_NEVER, CONTENT_OFF

MOST_PATTERNS, LONGEST_PATTERN = 100, 500


class ContentLog(models.TextChoices):
    NEVER = "never", "Never, whatever the other one says"
    METADATA = "metadata", "Metadata: sizes, roles, parameters; no text"
    FULL = "full", "Full: requests and answers, encrypted"


CONTENT_LEVELS = {
    "": CONTENT_OFF,
    ContentLog.NEVER.value: CONTENT_NEVER,
    ContentLog.METADATA.value: CONTENT_METADATA,
    ContentLog.FULL.value: CONTENT_FULL,
}


def content_field(other: str) -> models.CharField:
    return models.CharField(
        "content logging",
        max_length=8,
        choices=ContentLog.choices,
        blank=True,
        help_text=f"How much of requests and answers is kept; the larger of this and the {other}'s, none "
        "where either says never. Blank: none, unless the other one wants it.",
    )


def content_constraint(model: str) -> models.CheckConstraint:
    return models.CheckConstraint(
        condition=models.Q(content_log__in=list(CONTENT_LEVELS)),
        name=f"{model}_content_log",
        violation_error_message=f"Content logging: allowed are {', '.join(ContentLog.values)} and blank.",
    )


def pattern_options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


def validate_patterns(value: Any) -> None:
    """A JSON list of regular expressions of RE2, whose time is bounded whatever they say."""
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValidationError('Allowed is a list of patterns, for example ["[0-9]{3}-[0-9]{4}"].')
    if len(value) > MOST_PATTERNS:
        raise ValidationError(f"Allowed are {MOST_PATTERNS} patterns or fewer.")
    for pattern in value:
        check_pattern(pattern)


def check_pattern(pattern: str) -> None:
    if not 0 < len(pattern) <= LONGEST_PATTERN:
        raise ValidationError(f"Allowed are patterns of 1 to {LONGEST_PATTERN} characters.")
    try:
        found = re2.compile(pattern, pattern_options())
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ValidationError(f"{pattern} is no pattern that RE2 takes: {reason}.") from None
    if found.search("") is not None:
        raise ValidationError(f"{pattern} matches nothing at all: it would be everywhere.")
