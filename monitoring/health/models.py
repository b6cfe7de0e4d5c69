"""What health checks and live traffic found of providers."""

from django.db import models

from routing.models import Provider, ProviderHealth


class CheckSchedule(models.Model):
    """When a provider was last claimed for a check; the row that probers compete for."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, primary_key=True, related_name="+")
    checked_at = models.DateTimeField()
    factor = models.FloatField(default=1.0, help_text="Of the interval, until the next check.")

    def __str__(self) -> str:
        return f"{self.provider_id}: {self.checked_at}"


class HealthCheck(models.Model):
    """One check of one provider; pruned after HEALTH_HISTORY_DAYS."""

    class Kind(models.TextChoices):
        GET = "get", "GET"
        COMPLETION = "completion", "One-token completion"

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="checks")
    at = models.DateTimeField()
    kind = models.CharField(max_length=10, choices=Kind.choices)
    ok = models.BooleanField("answered")
    status = models.CharField("status after it", max_length=10, choices=ProviderHealth.Status.choices)
    latency_ms = models.FloatField("latency ms")
    detail = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["-at"]
        indexes = [
            models.Index(fields=["provider", "-at"], name="healthcheck_provider"),
            models.Index(fields=["at"], name="healthcheck_at"),
        ]

    def __str__(self) -> str:
        return f"{self.provider_id} at {self.at}"


class HealthTransition(models.Model):
    """A provider's status turned, with what it was judged by."""

    provider = models.ForeignKey(Provider, on_delete=models.CASCADE, related_name="transitions")
    at = models.DateTimeField()
    before = models.CharField(max_length=10, choices=ProviderHealth.Status.choices)
    after = models.CharField(max_length=10, choices=ProviderHealth.Status.choices)
    reason = models.CharField(max_length=300)
    evidence = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at"]
        indexes = [models.Index(fields=["provider", "-at"], name="healthtransition_provider")]

    def __str__(self) -> str:
        return f"{self.before} to {self.after}"


class TrafficFault(models.Model):
    """Requests to some of a provider's targets fail, whatever its checks say; gone once they don't."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, primary_key=True, related_name="+")
    since = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="When requests last failed.")
    evidence = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.provider_id} since {self.since}"
