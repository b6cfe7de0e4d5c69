"""Usage reports that are sent by themselves, and what became of each."""

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from monitoring.alerts.models import AlertChannel


class ScheduledReport(models.Model):
    class Period(models.TextChoices):
        DAY = "day", "Daily: the day before"
        WEEK = "week", "Weekly: the week before, from Monday"
        MONTH = "month", "Monthly: the month before"

    class Grouping(models.TextChoices):
        TEAM = "team", "Team"
        KEY = "key", "API key"
        ROUTE = "route", "Route"
        PROVIDER = "provider", "Provider"
        MODEL = "model", "Model"
        TAG = "tag", "Tag"
        STATUS = "status", "Status"
        DAY = "day", "Day"
        REQUEST = "request", "Each request (CSV by webhook)"

    class Format(models.TextChoices):
        CSV = "csv", "CSV"
        HTML = "html", "HTML"

    name = models.CharField(max_length=100, unique=True)
    period = models.CharField(max_length=5, choices=Period.choices, default=Period.WEEK)
    hour = models.PositiveSmallIntegerField(
        "hour (UTC)",
        default=6,
        validators=[MaxValueValidator(23)],
        help_text="It is sent on the first day after its period, from this hour on, 0 to 23.",
    )
    group_by = models.CharField(max_length=10, choices=Grouping.choices, default=Grouping.TEAM)
    team = models.CharField(max_length=64, blank=True, help_text="Only of this team (its slug). Blank: all.")
    format = models.CharField(max_length=4, choices=Format.choices, default=Format.CSV)
    channels = models.ManyToManyField(
        AlertChannel,
        help_text="Who gets it: channels for e-mail, or webhooks, which get the file as the body. They "
        "are edited under Alert channels.",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(
        default=timezone.now, editable=False, help_text="Periods that ended before are not sent."
    )

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(hour__lte=23),
                name="scheduledreport_hour_max",
                violation_error_message="Hour: allowed are 0 to 23.",
            ),
            models.CheckConstraint(
                condition=~Q(group_by="request") | Q(format="csv"),
                name="scheduledreport_requests_as_csv",
                violation_error_message="Each request: allowed as CSV only.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class ReportDelivery(models.Model):
    """One report of one period to one channel, tried until it is taken or given up."""

    class Status(models.TextChoices):
        PENDING = "pending", "Pending"
        SENT = "sent", "Sent"
        FAILED = "failed", "Given up"

    report = models.ForeignKey(ScheduledReport, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="report_deliveries")
    first = models.DateField("first day")
    last = models.DateField("last day")
    by_hand = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(default=timezone.now)
    last_error = models.CharField(max_length=300, blank=True)

    class Meta:
        verbose_name_plural = "report deliveries"
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["report", "channel", "first", "last"],
                condition=Q(by_hand=False),
                name="reportdelivery_once",
            )
        ]
        indexes = [models.Index(fields=["status", "next_try_at"], name="reportdelivery_due")]

    def __str__(self) -> str:
        return f"{self.report}, {self.first:%Y-%m-%d} to {self.last:%Y-%m-%d}"
