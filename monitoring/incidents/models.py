"""What the status page tells of."""

from django.db import models

from routing.models import Provider


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
