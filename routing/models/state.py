"""Single rows and live state beside the configuration."""

from django.db import models

from routing.models.content import validate_patterns
from routing.models.fields import range_constraint, validate_origins
from routing.models.provider import Provider
from routing.publishing import RoutingQuerySet


class GatewaySettings(models.Model):
    """The one row of settings that admins edit; the rest is in the environment."""

    cors_origins = models.JSONField(
        "CORS origins",
        default=list,
        blank=True,
        validators=[validate_origins],
        help_text="Web origins whose pages may call the gateway, beside CORS_ALLOWED_ORIGINS, "
        'for example ["https://app.example.com"].',
    )

    breaker_enabled = models.BooleanField(
        "circuit breaker",
        default=True,
        help_text="Whether targets that fail are left out for a while. Off: each request tries them again.",
    )
    breaker_failures = models.PositiveSmallIntegerField(
        "failures in a row", default=3, help_text="Failures in a row that take a target out, 1 to 1,000."
    )
    breaker_error_percent = models.PositiveSmallIntegerField(
        "error rate",
        default=50,
        help_text="Percentage of failed requests in the last minute that takes a target out, 1 to 100.",
    )
    breaker_min_requests = models.PositiveIntegerField(
        "requests for the error rate",
        default=20,
        help_text="Requests in the last minute below which the error rate doesn't count, 1 to 100,000.",
    )
    cooldown_seconds = models.FloatField(
        "cooldown",
        default=30,
        help_text="Seconds that a failing target is left out before one request tries it again, 0.1 to "
        "3,600. Also the longest pause after a 429 that doesn't say how long to wait.",
    )
    log_days = models.PositiveSmallIntegerField(
        "days of the request log",
        default=90,
        help_text="Days after which a row of the request log is deleted, 1 to 3,650. Its usage and cost "
        "stay in all reports and budgets.",
    )

    content_days = models.PositiveSmallIntegerField(
        "days of content",
        default=7,
        help_text="Days after which logged content is deleted, 1 to 3,650; never later than its row.",
    )
    content_patterns = models.JSONField(
        "patterns to redact",
        default=list,
        blank=True,
        validators=[validate_patterns],
        help_text="Regular expressions (RE2) whose matches are replaced in logged content, beside "
        'credentials, for example ["[0-9]{3}-[0-9]{2}-[0-9]{4}"].',
    )

    status_public = models.BooleanField(
        "status page for everybody",
        default=False,
        help_text="Whether /status can be read without a login: names of model routes, their availability, "
        "incidents. Off: staff only.",
    )
    status_names_providers = models.BooleanField(
        "status page names providers",
        default=False,
        help_text="Whether it says which providers serve a route and how they are.",
    )

    objects = RoutingQuerySet["GatewaySettings"].as_manager()

    class Meta:
        verbose_name = verbose_name_plural = "gateway settings"
        constraints = [
            models.CheckConstraint(condition=models.Q(pk=1), name="gatewaysettings_single_row"),
            range_constraint("gatewaysettings", "breaker_failures", 1, 1000),
            range_constraint("gatewaysettings", "breaker_error_percent", 1, 100),
            range_constraint("gatewaysettings", "breaker_min_requests", 1, 100000),
            range_constraint("gatewaysettings", "cooldown_seconds", 0.1, 3600),
            range_constraint("gatewaysettings", "log_days", 1, 3650),
            range_constraint("gatewaysettings", "content_days", 1, 3650),
        ]

    def __str__(self) -> str:
        return "Gateway settings"

    @classmethod
    def load(cls) -> "GatewaySettings":
        return cls.objects.filter(pk=1).first() or cls(pk=1)


class RoutingVersion(models.Model):
    """The one row whose number differs after each change that workers must pick up."""

    number = models.PositiveBigIntegerField(default=1)
    changed_at = models.DateTimeField(auto_now=True)
    recounted = models.PositiveBigIntegerField(
        default=0, help_text="Rises when workers must read anew what budgets have spent."
    )

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(pk=1), name="routingversion_single_row")]

    def __str__(self) -> str:
        return str(self.number)


class ProviderHealth(models.Model):
    """What the last probes found; apart from Provider so that no admin edit overwrites it."""

    class Status(models.TextChoices):
        UNKNOWN = "unknown", "Unknown"
        HEALTHY = "healthy", "Healthy"
        DEGRADED = "degraded", "Degraded"
        UNHEALTHY = "unhealthy", "Unhealthy"

    class Mark(models.TextChoices):
        """What only an admin can mend, while the provider itself lives."""

        CREDENTIAL = "credential", "The credential is refused"
        UNPAID = "unpaid", "The account is unpaid"

    provider = models.OneToOneField(
        Provider, on_delete=models.CASCADE, primary_key=True, related_name="health"
    )
    status = models.CharField(max_length=10, choices=Status.choices)
    checked_at = models.DateTimeField()
    changed_at = models.DateTimeField(help_text="When the status last changed.")
    latency_ms = models.FloatField(null=True, help_text="Milliseconds until the probe's answer.")
    failures = models.PositiveIntegerField(default=0, help_text="Failed probes in a row.")
    successes = models.PositiveIntegerField(default=0, help_text="Good probes in a row.")
    detail = models.CharField(max_length=300, blank=True, help_text="Why the last probe failed.")
    mark = models.CharField(
        max_length=10,
        choices=Mark.choices,
        blank=True,
        default="",
        db_default="",  # the release before adds rows too, while both run
        help_text="What the last probe found wrong with the account.",
    )

    class Meta:
        verbose_name_plural = "provider health"

    def __str__(self) -> str:
        return f"{self.provider}: {self.status}"
