"""What happened: one row per request, shipped from the journal; and what health checks found."""

from datetime import datetime
from decimal import Decimal

from django.db import models
from django.db.models import Q

from monitoring.alerts.models import Alert, AlertChannel, AlertDelivery, AlertRule
from proxy.ids import first_id
from routing.models import Provider, ProviderHealth

__all__ = [
    "Alert",
    "AlertChannel",
    "AlertDelivery",
    "AlertRule",
    "CheckSchedule",
    "HealthCheck",
    "HealthTransition",
    "Heartbeat",
    "RequestLog",
]

NANO = Decimal(10) ** 9
CLOCK_STEP = 60  # seconds by which a row's id may differ from its time

CHAT = "chat/completions"


class RequestLogQuerySet(models.QuerySet["RequestLog"]):
    def received(self, start: datetime, end: datetime) -> "RequestLogQuerySet":
        """From start until before end. By id as well: on Postgres only these days' partitions are read."""
        first, last = start.timestamp() - CLOCK_STEP, end.timestamp() + CLOCK_STEP
        return self.filter(
            received_at__gte=start, received_at__lt=end, id__gte=first_id(first), id__lt=first_id(last)
        )


class RequestLog(models.Model):
    """Names are stored as they were at the time, so that a deleted key or route keeps its history.

    The id's first 48 bits are `received_at` in milliseconds: ids are in the order of time. On Postgres the
    table is partitioned by them, a day to each (monitoring/retention/partitions.py).
    """

    class Outcome(models.TextChoices):
        ANSWERED = "answered", "Answered"
        REFUSED = "refused", "Refused by the gateway"
        CALLER_ERROR = "caller_error", "The provider refused what the caller asked"
        UPSTREAM_FAILED = "upstream_failed", "Provider failed before the answer"
        UPSTREAM_BROKEN = "upstream_broken", "Provider failed during the answer"
        CLIENT_GONE = "client_gone", "Client hung up"
        FAILED = "failed", "Gateway error"
        UNKNOWN = "unknown", "Unknown (the process died)"

    class Abandoned(models.TextChoices):
        CANCELLED = "cancelled", "Cancelled"
        DRAINED = "drained", "Read to its end"
        CUT_OFF = "cut_off", "Read, but not to its end"

    id = models.UUIDField(primary_key=True, editable=False)
    received_at = models.DateTimeField()
    request_id = models.CharField(max_length=128)
    outcome = models.CharField(max_length=16, choices=Outcome.choices)
    status = models.PositiveSmallIntegerField(null=True, help_text="HTTP status sent. Blank: none was sent.")
    error_code = models.CharField(max_length=64, blank=True)
    endpoint = models.CharField(max_length=40)
    stream = models.BooleanField(default=False)
    model = models.CharField("requested model", max_length=200, blank=True)
    key_id = models.BigIntegerField(null=True)
    key_name = models.CharField("API key", max_length=100, blank=True)
    team = models.CharField(max_length=64, blank=True)
    route = models.CharField(max_length=200, blank=True)
    target_id = models.BigIntegerField(null=True)
    provider = models.CharField(max_length=64, blank=True)
    upstream_model = models.CharField(max_length=200, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0, help_text="Calls made to providers.")
    attempt_trail = models.JSONField(
        default=list, help_text="Each target: status or error and milliseconds, or why it was left out."
    )
    shadow = models.BooleanField(
        default=False, help_text="A copy sent to a shadow target: nobody got the answer, no key pays for it."
    )
    input_tokens = models.BigIntegerField(null=True)
    output_tokens = models.BigIntegerField(null=True)
    cached_tokens = models.BigIntegerField(null=True, help_text="Part of the input tokens.")
    reasoning_tokens = models.BigIntegerField(null=True, help_text="Part of the output tokens.")
    cache_write_tokens = models.BigIntegerField(null=True, help_text="Part of the input tokens.")
    cache_write_1h_tokens = models.BigIntegerField(
        null=True, help_text="Part of those written to the cache: kept for an hour."
    )
    audio_input_tokens = models.BigIntegerField(null=True, help_text="Part of the input tokens.")
    audio_output_tokens = models.BigIntegerField(null=True, help_text="Part of the output tokens.")
    image_input_tokens = models.BigIntegerField(null=True, help_text="Part of the input tokens.")
    image_output_tokens = models.BigIntegerField(null=True, help_text="Part of the output tokens.")
    tokens_estimated = models.BooleanField(default=False, help_text="The provider reported none.")
    abandoned = models.CharField(
        "client gone",
        max_length=10,
        blank=True,
        choices=Abandoned.choices,
        help_text="What became of the provider's answer when the client was gone.",
    )
    price = models.CharField(
        max_length=400,
        blank=True,
        help_text="That the cost was made from: USD per million tokens of each class, and per request.",
    )
    cost_nano_usd = models.BigIntegerField(null=True, help_text="Billionths of a US dollar. Blank: unknown.")
    total_ms = models.FloatField(null=True)
    overhead_ms = models.FloatField(null=True, help_text="Spent in the gateway itself.")
    ttft_ms = models.FloatField("TTFT ms", null=True, help_text="From the request to the first byte sent.")
    tags = models.JSONField(default=list)
    client_info = models.CharField(max_length=200, blank=True)
    # NULL where nothing is known: so the columns are added without rewriting the log.
    user_agent = models.CharField(max_length=200, null=True, blank=True)
    client_address = models.CharField(max_length=45, null=True, blank=True)

    objects = RequestLogQuerySet.as_manager()

    class Meta:
        verbose_name = "request"
        verbose_name_plural = "request log"
        ordering = ["-id"]
        # One for each of the admin's filters, in the list's order; small where exceptions are looked for.
        indexes = [
            models.Index(fields=["received_at"], name="requestlog_received_at"),
            models.Index(fields=["request_id"], name="requestlog_request_id"),
            models.Index(fields=["key_id", "-id"], name="requestlog_key_id"),
            models.Index(fields=["team", "-id"], name="requestlog_team"),
            models.Index(fields=["route", "-id"], name="requestlog_route"),
            models.Index(fields=["provider", "-id"], name="requestlog_provider"),
            models.Index(fields=["-id"], name="requestlog_stream", condition=Q(stream=True)),
            models.Index(fields=["-id"], name="requestlog_one_piece", condition=Q(stream=False)),
            models.Index(
                fields=["outcome", "-id"], name="requestlog_outcome", condition=~Q(outcome="answered")
            ),
            models.Index(fields=["endpoint", "-id"], name="requestlog_endpoint", condition=~Q(endpoint=CHAT)),
            models.Index(fields=["-id"], name="requestlog_401", condition=Q(status=401)),
            models.Index(fields=["-id"], name="requestlog_429", condition=Q(status=429)),
            models.Index(fields=["-id"], name="requestlog_4xx", condition=Q(status__gte=400, status__lt=500)),
            models.Index(fields=["-id"], name="requestlog_5xx", condition=Q(status__gte=500)),
            models.Index(fields=["-id"], name="requestlog_no_status", condition=Q(status=None)),
            models.Index(fields=["-id"], name="requestlog_shadow", condition=Q(shadow=True)),
            # Few rows are: the page of unknown prices reads only these.
            models.Index(
                fields=["provider", "upstream_model"],
                name="requestlog_unpriced",
                condition=models.Q(cost_nano_usd__isnull=True, attempts__gt=0),
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)

    @property
    def cost_usd(self) -> Decimal | None:
        """None is unknown, never 0."""
        return None if self.cost_nano_usd is None else Decimal(self.cost_nano_usd) / NANO


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


from monitoring.book_models import Repricing, RowSeal, StaleHour, UsageHour, UsageSum  # noqa: E402
from monitoring.budgets.models import BudgetPeriod  # noqa: E402
from monitoring.content.models import ContentAccess, RequestContent  # noqa: E402
from monitoring.reports.models import ReportDelivery, ScheduledReport  # noqa: E402
from monitoring.status_models import Incident, TrafficFault  # noqa: E402

__all__ += ["BudgetPeriod", "ContentAccess", "Incident", "ReportDelivery", "Repricing", "RequestContent"]
__all__ += ["RowSeal", "ScheduledReport", "StaleHour", "TrafficFault", "UsageHour", "UsageSum"]
