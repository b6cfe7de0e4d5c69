"""Alerts, whom to tell, and what was told."""

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

from routing import credentials


class AlertChannelQuerySet(models.QuerySet["AlertChannel"]):
    def for_alerts(self) -> "AlertChannelQuerySet":
        return self.exclude(purpose=AlertChannel.Purpose.REPORTS)

    def for_reports(self) -> "AlertChannelQuerySet":
        return self.exclude(purpose=AlertChannel.Purpose.ALERTS)


class AlertChannel(models.Model):
    class Purpose(models.TextChoices):
        ALERTS = "alerts", "Alerts"
        REPORTS = "reports", "Scheduled reports"
        BOTH = "both", "Alerts and scheduled reports"

    class Kind(models.TextChoices):
        WEBHOOK = "webhook", "Webhook (signed JSON)"
        SLACK = "slack", "Slack-compatible webhook"
        EMAIL = "email", "E-mail"

    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=10, choices=Kind.choices)
    encrypted_target = models.TextField(editable=False)
    encrypted_secret = models.TextField(blank=True, editable=False)
    purpose = models.CharField(
        max_length=10,
        choices=Purpose.choices,
        default=Purpose.BOTH,
        db_default=Purpose.BOTH,  # the release before adds rows too, while both run
        help_text="What may be sent there. A channel for alerts gets those of each rule that chooses none.",
    )
    enabled = models.BooleanField(default=True)

    objects = AlertChannelQuerySet.as_manager()

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def target(self) -> str:
        """A URL, or addresses separated by commas. Raises CredentialUnreadable."""
        return credentials.decrypt(self.encrypted_target)

    @target.setter
    def target(self, plaintext: str) -> None:
        self.encrypted_target = credentials.encrypt(plaintext)

    @property
    def secret(self) -> str:
        """Signs webhooks; empty: they aren't signed. Raises CredentialUnreadable."""
        return credentials.decrypt(self.encrypted_secret)

    @secret.setter
    def secret(self, plaintext: str) -> None:
        self.encrypted_secret = credentials.encrypt(plaintext)


class AlertRule(models.Model):
    class Kind(models.TextChoices):
        PROVIDER_DOWN = "provider_down", "Provider down"
        ERROR_RATE = "error_rate", "Error rate (percent of 5 minutes)"
        LATENCY = "latency", "Latency (95 % within ms, of 5 minutes)"
        BUDGET = "budget", "Budget used (percent)"
        BACKLOG = "backlog", "Journal backlog (MB)"
        STALLED = "stalled", "Worker, beat or shipper stalled"
        KEY_EXPIRING = "key_expiring", "API key expires (days before)"

    kind = models.CharField(max_length=20, choices=Kind.choices, unique=True)
    enabled = models.BooleanField(default=True)
    threshold = models.FloatField(
        default=0, help_text="In the unit that the kind names; unused where it names none."
    )
    steps = models.CharField(
        "percentages",
        max_length=100,
        blank=True,
        validators=[
            RegexValidator(
                r"^\s*\d{1,3}(\s*,\s*\d{1,3})*\s*\Z", "Allowed are whole numbers such as 50, 80, 100."
            )
        ],
        help_text="Budget used: each is told once in each period of a budget, for example 50, 80, 100. "
        "Blank: the threshold only.",
    )
    remind_minutes = models.PositiveIntegerField(
        default=240, help_text="Told again after so many minutes until it is acknowledged or over. 0: once."
    )
    channels = models.ManyToManyField(
        AlertChannel, blank=True, help_text="None chosen: all channels for alerts."
    )
    evaluated_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["kind"]

    def __str__(self) -> str:
        return self.get_kind_display()

    @property
    def percentages(self) -> list[float]:
        """Rising."""
        given = [float(text) for text in self.steps.split(",") if text.strip()]
        return sorted({*given} or {self.threshold})


class Alert(models.Model):
    """One thing that is or was wrong, from its beginning to its end."""

    rule = models.ForeignKey(AlertRule, on_delete=models.CASCADE, related_name="alerts")
    subject = models.CharField(max_length=200)
    summary = models.CharField(max_length=300)
    evidence = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    told_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    acknowledged_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        ordering = ["-started_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "subject"], condition=models.Q(ended_at=None), name="alert_open_once"
            )
        ]

    def __str__(self) -> str:
        return self.summary


class AlertDelivery(models.Model):
    """One message to one channel, tried until it is taken or given up."""

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        SENT = "sent", "Sent"
        FAILED = "failed", "Given up"

    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="deliveries")
    alert = models.ForeignKey(Alert, null=True, on_delete=models.CASCADE, related_name="deliveries")
    event = models.CharField(max_length=10)
    summary = models.CharField(max_length=300)
    created_at = models.DateTimeField(default=timezone.now)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        verbose_name_plural = "alert deliveries"
        ordering = ["-created_at"]
        indexes = [models.Index(fields=["status", "next_try_at"], name="alertdelivery_due")]

    def __str__(self) -> str:
        return f"{self.event}: {self.summary}"
