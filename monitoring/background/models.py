"""Signs of life."""

from django.db import models


class Heartbeat(models.Model):
    """The last sign of life of one instance of a background component."""

    component = models.CharField(max_length=20)
    instance = models.CharField(max_length=100)
    at = models.DateTimeField()
    details = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["component", "instance"], name="heartbeat_unique")]

    def __str__(self) -> str:
        return f"{self.component} on {self.instance}"
