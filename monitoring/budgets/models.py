"""Budgets' periods: what was spent in each."""

from datetime import UTC, datetime
from decimal import Decimal

from django.db import models

NANO = Decimal(10) ** 9
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""When the period of a budget began that never resets."""


class BudgetPeriod(models.Model):
    """One period of one budget: running, or closed when it reset. Names and amounts as they were."""

    class Kind(models.TextChoices):
        KEY = "key", "API key"
        TEAM = "team", "Team"
        ROUTE = "route", "Route"
        TARGET = "target", "Target"
        PROVIDER = "provider", "Provider"

    kind = models.CharField(max_length=8, choices=Kind.choices)
    owner_id = models.BigIntegerField()
    name = models.CharField(max_length=300)
    period = models.CharField(max_length=8)
    starts_at = models.DateTimeField("from")
    ends_at = models.DateTimeField("until", null=True)
    limit_nano = models.BigIntegerField()
    spent_nano = models.BigIntegerField()
    used_percent = models.FloatField()
    updated_at = models.DateTimeField()
    closed_at = models.DateTimeField(
        null=True, help_text="When it reset, or the budget was removed or got another period. Blank: it runs."
    )

    class Meta:
        ordering = ["-starts_at", "kind", "name"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "owner_id", "period", "starts_at"], name="budgetperiod_unique"
            )
        ]
        indexes = [
            models.Index(
                fields=["-used_percent"], name="budgetperiod_running", condition=models.Q(closed_at=None)
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} ({self.period})"

    @property
    def limit_usd(self) -> Decimal:
        return Decimal(self.limit_nano) / NANO

    @property
    def spent_usd(self) -> Decimal:
        return Decimal(self.spent_nano) / NANO
