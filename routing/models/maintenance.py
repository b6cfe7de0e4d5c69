"""Times in which a provider is not to be used."""

from datetime import datetime

from django.db import models
from django.utils import timezone

from routing.models.provider import Provider
from routing.publishing import RoutingQuerySet


class MaintenanceQuerySet(RoutingQuerySet["MaintenanceWindow"]):
    def not_over(self, now: datetime) -> "MaintenanceQuerySet":
        return self.filter(models.Q(ends_at__gt=now) | models.Q(ends_at=None))

    def running(self, now: datetime) -> "MaintenanceQuerySet":
        return self.not_over(now).filter(starts_at__lte=now)


class MaintenanceWindow(models.Model):
    provider = models.ForeignKey(
        Provider,
        on_delete=models.CASCADE,
        related_name="maintenance",
        help_text="Gets no requests while the window lasts, and no alert is raised for it.",
    )
    starts_at = models.DateTimeField("from", default=timezone.now)
    ends_at = models.DateTimeField("until", null=True, blank=True, help_text="Blank: until it is ended here.")
    reason = models.CharField(max_length=200, blank=True, help_text="For the other admins.")

    objects = MaintenanceQuerySet.as_manager()

    class Meta:
        ordering = ["-starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(ends_at=None) | models.Q(ends_at__gt=models.F("starts_at")),
                name="maintenancewindow_ends_after_start",
                violation_error_message="Until: must be later than from.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} from {self.starts_at:%Y-%m-%d %H:%M}"

    def state(self, now: datetime) -> str:
        """planned, running or over."""
        if self.starts_at > now:
            return "planned"
        return "over" if self.ends_at is not None and self.ends_at <= now else "running"
