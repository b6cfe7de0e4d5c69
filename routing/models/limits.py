"""Limits and budgets of a provider, target, route, team or key; blank is none."""

import zoneinfo

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models


class BudgetPeriod(models.TextChoices):
    DAY = "day", "Each day"
    WEEK = "week", "Each week, from Monday"
    MONTH = "month", "Each calendar month"
    TOTAL = "total", "Once: prepaid, never resets"


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
    budget_usd = models.DecimalField(
        "budget in USD",
        max_digits=15,
        decimal_places=9,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="Most that may be spent in one period, 0 USD or more. Blank: no budget.",
    )
    budget_period = models.CharField(
        max_length=8,
        choices=BudgetPeriod.choices,
        default=BudgetPeriod.TOTAL,
        help_text="When what was spent counts from 0 again, by the team's clock (UTC without a team).",
    )

    class Meta:
        abstract = True


def limit_constraints(model: str) -> list[models.CheckConstraint]:
    """One constraint per limit, so that bulk writes can't store a limit of 0."""
    limits = [
        models.CheckConstraint(
            condition=models.Q(**{f"{name}__isnull": True}) | models.Q(**{f"{name}__gte": 1}),
            name=f"{model}_{name}_min",
            violation_error_message=f"{name}: allowed are 1 and more, or blank for no limit.",
        )
        for name in ("rpm", "tpm", "parallel")
    ]
    return [
        *limits,
        models.CheckConstraint(
            condition=models.Q(budget_usd__isnull=True) | models.Q(budget_usd__gte=0),
            name=f"{model}_budget_min",
            violation_error_message="Budget: allowed are 0 USD and more, or blank for none.",
        ),
        models.CheckConstraint(
            condition=models.Q(budget_period__in=BudgetPeriod.values),
            name=f"{model}_budget_period",
            violation_error_message=f"Budget period: allowed are {', '.join(BudgetPeriod.values)}.",
        ),
    ]


def is_time_zone(name: str) -> bool:
    """Raises nothing, whatever is stored: also for a zone that only another machine knows."""
    try:
        zoneinfo.ZoneInfo(name)
    except (LookupError, OSError, TypeError, ValueError):
        return False
    return True


def validate_time_zone(name: str) -> None:
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"{name!r} is not a time zone: allowed are names such as Europe/Berlin or UTC.")
