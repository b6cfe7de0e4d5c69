"""What a configuration file wants to be guarded by, and nothing here does."""

from django.db import models


class InactiveGuard(models.Model):
    """Stands on the admin's first page until somebody acknowledges it."""

    source = models.CharField("file", max_length=500)
    name = models.CharField("guard", max_length=200)
    place = models.CharField("place in the file", max_length=300)
    acknowledged_by = models.CharField(max_length=150, blank=True)
    acknowledged_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["source", "name"]
        verbose_name = "inactive guard"
        constraints = [models.UniqueConstraint(fields=["source", "name"], name="inactiveguard_unique")]

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"
