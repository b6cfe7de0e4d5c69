"""Logged content, in a table of its own that no list reads, and who has looked at it."""

from django.conf import settings
from django.db import models
from django.utils import timezone


class RequestContent(models.Model):
    """What one request of the log asked and was answered; the id is the row's. Partitioned as the log is."""

    class Level(models.IntegerChoices):
        METADATA = 1, "Metadata"
        FULL = 2, "Full"

    id = models.UUIDField(primary_key=True, editable=False)
    received_at = models.DateTimeField()
    level = models.PositiveSmallIntegerField(choices=Level.choices)
    key_name = models.CharField("API key", max_length=100, blank=True)
    facts = models.JSONField(default=dict, help_text="Sizes, roles, parameters: no text.")
    cut = models.BooleanField(default=False, help_text="Longer than CONTENT_MAX_BYTES.")
    encrypted = models.TextField(blank=True, help_text="Request and answer, redacted, as a Fernet token.")

    class Meta:
        verbose_name = "logged content"
        verbose_name_plural = "logged content"
        indexes = [models.Index(fields=["received_at"], name="requestcontent_received")]

    def __str__(self) -> str:
        return str(self.id)


class ContentAccess(models.Model):
    """Somebody looked at the content of a request. Written before it is shown."""

    at = models.DateTimeField(default=timezone.now)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    username = models.CharField(max_length=150)
    address = models.CharField(max_length=64, blank=True)
    request = models.UUIDField("request", db_index=True)
    key_name = models.CharField("API key", max_length=100, blank=True)

    class Meta:
        verbose_name_plural = "content accesses"
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.username} at {self.at:%Y-%m-%d %H:%M:%S}"
