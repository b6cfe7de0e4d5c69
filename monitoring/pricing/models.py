"""Prices that an admin gave for requests whose cost was unknown."""

from django.db import models


class Repricing(models.Model):
    """A price that an admin gave for requests whose cost was unknown; carried out by a Celery task."""

    provider = models.CharField(max_length=64)
    upstream_model = models.CharField(max_length=200)
    price = models.CharField(max_length=400, help_text="As a row of the request log keeps it.")
    asked_at = models.DateTimeField(auto_now_add=True)
    asked_by = models.CharField(max_length=150)
    finished_at = models.DateTimeField(null=True)
    last = models.UUIDField(null=True, help_text="The last row that was looked at.")
    requests = models.BigIntegerField(default=0, help_text="So many got a cost.")
    left_out = models.BigIntegerField(default=0, help_text="Rows that were altered by hand: see the audit.")
    cost_nano_usd = models.BigIntegerField(default=0, help_text="Of all of them.")

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.provider}/{self.upstream_model}: {self.price}"
