"""What live traffic says of providers, and the incidents that the status page tells of."""

from django.db import models

from routing.models import Provider


class TrafficFault(models.Model):
    """Requests to some of a provider's targets fail, whatever its checks say; gone once they don't."""

    provider = models.OneToOneField(Provider, on_delete=models.CASCADE, primary_key=True, related_name="+")
    since = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="When requests last failed.")
    evidence = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.provider_id} since {self.since}"


class Incident(models.Model):
    """Something that callers may have noticed; made by the gateway, or by an admin."""

    title = models.CharField(max_length=200, help_text="Shown on the status page.")
    note = models.TextField(
        blank=True, max_length=2000, help_text="What callers should know, shown below the title. Plain text."
    )
    started_at = models.DateTimeField("from")
    ended_at = models.DateTimeField("until", null=True, blank=True, help_text="Blank: it lasts.")
    routes = models.JSONField(default=list, blank=True, help_text="Names of the model routes it is about.")
    shown = models.BooleanField(default=True, help_text="Whether the status page tells of it.")
    provider = models.ForeignKey(
        Provider, null=True, editable=False, on_delete=models.SET_NULL, related_name="incidents"
    )
    alert = models.OneToOneField(
        "monitoring.Alert", null=True, editable=False, on_delete=models.SET_NULL, related_name="incident"
    )

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ended_at=None) | models.Q(ended_at__gte=models.F("started_at")),
                name="incident_ends_after_start",
                violation_error_message="Until: must not be before from.",
            )
        ]

    def __str__(self) -> str:
        return self.title
