"""Limits that a provider, target, team or key may have; blank is no limit."""

from django.core.validators import MinValueValidator
from django.db import models


def limit_field(what: str) -> models.PositiveIntegerField:
    return models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1, "Allowed are 1 and more, or blank for no limit.")],
        help_text=f"{what}, 1 or more. Blank: no limit.",
    )


class Limited(models.Model):
    rpm = limit_field("Requests per minute")
    tpm = limit_field("Tokens per minute, prompt and answer together")
    parallel = limit_field("Requests open at the same time")

    class Meta:
        abstract = True


def limit_constraints(model: str) -> list[models.CheckConstraint]:
    """One constraint per limit, so that bulk writes can't store a limit of 0."""
    return [
        models.CheckConstraint(
            condition=models.Q(**{f"{name}__isnull": True}) | models.Q(**{f"{name}__gte": 1}),
            name=f"{model}_{name}_min",
            violation_error_message=f"{name}: allowed are 1 and more, or blank for no limit.",
        )
        for name in ("rpm", "tpm", "parallel")
    ]
