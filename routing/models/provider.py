"""A provider: one account at one upstream API."""

import json
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from routing import credentials, secret_headers
from routing.demo_provider import called_at
from routing.models.fields import (
    choice_constraint,
    range_constraint,
    slug_validator,
    validate_base_url,
    validate_headers,
    words_field,
)
from routing.models.limits import Limited, limit_constraints
from routing.publishing import RoutingQuerySet

OLD_READ_TIMEOUT = 60.0  # seconds: the default before a blank meant the gateway's own rules

DIALECT_DEFAULTS: dict[str, dict[str, Any]] = {
    "openai": {"health_path": "models", "when_unhealthy": "try"},
    "zai": {
        "health_path": "/v1/health",
        "when_unhealthy": "refuse",
        "api_version": "2024-01-01",
        "extra_headers": {"User-Agent": "ZAI-Gateway/1.0"},
    },
}
"""What a provider of a dialect starts with where an admin or a config file says nothing."""


class Dialect(models.TextChoices):
    OPENAI = "openai", "OpenAI-compatible"
    ZAI = "zai", "Z.ai"


class WhenUnhealthy(models.TextChoices):
    TRY = "try", "Try it all the same, after the healthy ones"
    REFUSE = "refuse", "Refuse with 503"


class Continues(models.TextChoices):
    """What the provider makes of a request whose last message is the assistant's."""

    NEVER = "", "Not at all"
    PLAIN = "plain", "A last assistant message is continued"
    FLAG = "flag", 'The same with "prefix": true (DeepSeek, Mistral)'


class StreamUsage(models.TextChoices):
    """Whether streams are asked for their usage where the caller did not ask."""

    BY_DIALECT = "", "As the dialect needs it (OpenAI-compatible: ask; Z.ai: it comes anyway)"
    ASK = "ask", "Ask, and keep it from callers who did not"
    LEAVE = "leave", "Don't ask"


class WhenAbandoned(models.TextChoices):
    """What becomes of a stream whose caller is gone."""

    CANCEL = "cancel", "Cancel it: its cost is an estimate"
    DRAIN = "drain", "Read it to its end: its cost is exact"


class ProviderQuerySet(RoutingQuerySet["Provider"]):
    def enabled(self) -> "ProviderQuerySet":
        return self.filter(enabled=True)


class Provider(Limited):
    slug = models.CharField(
        max_length=64,
        unique=True,
        validators=[slug_validator],
        help_text="Short name, used in the x-litellm-route header and in config files.",
    )
    name = models.CharField(max_length=100, help_text="Name shown in the admin.")
    dialect = models.CharField(
        max_length=20,
        choices=Dialect.choices,
        default=Dialect.OPENAI,
        help_text="How this provider's API is spoken to.",
    )
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[validate_base_url],
        help_text="Up to and including the version, for example https://api.openai.com/v1.",
    )
    encrypted_api_key = models.TextField("API key (encrypted)", blank=True, editable=False)
    extra_headers = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_headers],
        help_text='Sent with each request to the provider, for example {"User-Agent": "ZAI-Gateway/1.0"}.',
    )
    encrypted_headers = models.TextField(
        "extra headers that hold credentials (encrypted)",
        blank=True,
        default="",
        db_default="",  # the release before adds rows too, while both run
        editable=False,
    )
    api_version = models.CharField(
        "API version",
        max_length=50,
        blank=True,
        help_text="Sent as X-API-Version to Z.ai. Blank: not sent.",
    )
    connect_timeout = models.FloatField(default=10, help_text="Seconds to wait for a connection, 0.1 to 300.")
    read_timeout = models.FloatField(
        null=True,
        blank=True,
        help_text="Seconds to wait for the next byte of an answer, 0.1 to 3,600. Blank, or 60: whole answers "
        "are bounded by the route's time-outs alone, streams by 60 s without a byte where another target is "
        "left, else by 300 s.",
    )
    max_connections = models.PositiveIntegerField(
        default=4096,
        help_text="Requests open to this provider at the same time, per web process, 1 to 65,535.",
    )
    queue_timeout = models.FloatField(
        default=5, help_text="Seconds that a request waits for a free connection before 503, 0 to 300."
    )
    max_queue = models.PositiveIntegerField(
        default=1000,
        help_text="Requests that wait for a free connection at the same time, per web process, 0 to 100,000. "
        "Further ones get 503 at once.",
    )
    key_share_percent = models.PositiveSmallIntegerField(
        "share of one key",
        default=50,
        db_default=50,
        help_text="Percent of the connections that one key gets while another key waits for one, 1 to 100. "
        "While nobody waits, a key may hold them all.",
    )
    max_answer_bytes = models.PositiveIntegerField(
        "longest answer",
        default=32 * 1024 * 1024,
        db_default=32 * 1024 * 1024,
        help_text="Bytes that are collected of an answer before it is passed on (of one that is no stream, a "
        "stream that is held back, an event of a stream that may be continued), 65,536 to 536,870,912. A "
        "longer one is a failure of the provider.",
    )
    keep_alive = models.FloatField(
        default=60, help_text="Seconds that an idle connection is kept, 0 to 3,600. 0: a new one each time."
    )
    prewarm = models.PositiveSmallIntegerField(
        default=0,
        help_text="Idle connections held ready for the next requests, per web process, 0 to 1,000. Only with "
        "the fast transport, and where idle connections are kept.",
    )
    retries = models.PositiveSmallIntegerField(
        default=1, help_text="Further tries at the same target after a failure, 0 to 10."
    )
    retry_delay = models.FloatField(
        default=0.5, help_text="Seconds before the first retry, 0 to 60; doubles each time, up to 60."
    )
    allow_caller_key = models.BooleanField(
        "callers may bring their own key",
        default=False,
        help_text="Whether the x-litellm-api-key header replaces the stored API key for one call.",
    )
    health_check_enabled = models.BooleanField("health checks", default=True)
    health_path = models.CharField(
        max_length=200,
        blank=True,
        help_text="Probed with GET. With a leading slash from the host's root, else below the base URL. "
        "Blank: the dialect's default (models; /v1/health for Z.ai).",
    )
    health_interval = models.PositiveIntegerField(
        default=30, help_text="Seconds between two probes, 5 to 86,400."
    )
    health_timeout = models.FloatField(default=5, help_text="Seconds that a probe may take, 0.1 to 60.")
    health_threshold = models.PositiveSmallIntegerField(
        default=2, help_text="Failed probes in a row that make the provider unhealthy, 1 to 10."
    )
    health_recovery = models.PositiveSmallIntegerField(
        "recovery threshold",
        default=1,
        help_text="Good probes in a row that make an unhealthy provider healthy again, 1 to 10.",
    )
    health_slow_ms = models.PositiveIntegerField(
        "degraded above",
        null=True,
        blank=True,
        help_text="Milliseconds above which a provider that answers is degraded, 1 to 60,000. Blank: never. "
        "A degraded provider is served from as before.",
    )
    health_model = models.CharField(
        "check with model",
        max_length=200,
        blank=True,
        help_text="This provider's own name of a model: each probe then buys an answer of one token from it, "
        "with a row in the request log. Blank: a GET, which costs nothing.",
    )
    when_unhealthy = models.CharField(
        max_length=10,
        choices=WhenUnhealthy.choices,
        default=WhenUnhealthy.TRY,
        help_text="What to do when only unhealthy providers are left for a request.",
    )
    continues = models.CharField(
        "goes on with a begun answer",
        max_length=10,
        blank=True,
        choices=Continues.choices,
        default=Continues.NEVER,
        help_text="How the provider takes the beginning of an answer and goes on with it. Routes that "
        "continue cut streams go on with such providers only.",
    )
    stream_usage = models.CharField(
        "usage of streams",
        max_length=10,
        blank=True,
        choices=StreamUsage.choices,
        default=StreamUsage.BY_DIALECT,
        help_text="Asked for with stream_options.include_usage; without it a stream's cost is an estimate. "
        "Not for providers that refuse options they don't know.",
    )
    words_too_long = words_field(
        "a request is too long for the model: context_window_fallbacks are then tried"
    )
    words_refused = words_field("the content is refused: only the content policy list is then tried")
    words_unpaid = words_field("the gateway's account is unpaid: the next target is then tried")
    words_busy = words_field("the provider has no capacity: it is tried again, then the next target")
    when_abandoned = models.CharField(
        "when the caller is gone",
        max_length=10,
        choices=WhenAbandoned.choices,
        default=WhenAbandoned.CANCEL,
        help_text="Drain streams of providers that bill a whole answer even where its connection is closed.",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ProviderQuerySet.as_manager()

    class Meta:
        ordering = ["slug"]
        constraints = [
            range_constraint("provider", "connect_timeout", 0.1, 300),
            range_constraint("provider", "read_timeout", 0.1, 3600, nullable=True),
            range_constraint("provider", "max_connections", 1, 65535),
            range_constraint("provider", "queue_timeout", 0, 300),
            range_constraint("provider", "max_queue", 0, 100000),
            range_constraint("provider", "prewarm", 0, 1000),
            range_constraint("provider", "key_share_percent", 1, 100),
            range_constraint("provider", "max_answer_bytes", 65536, 536870912),
            range_constraint("provider", "keep_alive", 0, 3600),
            range_constraint("provider", "retries", 0, 10),
            range_constraint("provider", "retry_delay", 0, 60),
            range_constraint("provider", "health_interval", 5, 86400),
            range_constraint("provider", "health_timeout", 0.1, 60),
            range_constraint("provider", "health_threshold", 1, 10),
            range_constraint("provider", "health_recovery", 1, 10),
            range_constraint("provider", "health_slow_ms", 1, 60000, nullable=True),
            choice_constraint("provider", "continues", Continues),
            choice_constraint("provider", "stream_usage", StreamUsage),
            choice_constraint("provider", "when_abandoned", WhenAbandoned),
            *limit_constraints("provider"),
        ]

    def __str__(self) -> str:
        return self.slug

    @property
    def api_key(self) -> str:
        """The credential in plain text. Raises CredentialUnreadable."""
        return credentials.decrypt(self.encrypted_api_key)

    @api_key.setter
    def api_key(self, plaintext: str) -> None:
        self.encrypted_api_key = credentials.encrypt(plaintext)

    @property
    def secret_headers(self) -> dict[str, str]:
        """Those of the extra headers that are stored encrypted. Raises CredentialUnreadable."""
        found: dict[str, str] = json.loads(credentials.decrypt(self.encrypted_headers) or "{}")
        return found

    @property
    def headers(self) -> dict[str, str]:
        """All extra headers in plain text. Raises CredentialUnreadable."""
        newer = {name.lower() for name in self.extra_headers}
        stored = self.secret_headers.items()
        return {name: text for name, text in stored if name.lower() not in newer} | self.extra_headers

    @headers.setter
    def headers(self, all_of_them: dict[str, str]) -> None:
        self.extra_headers, secret = secret_headers.split(all_of_them)
        if not secret:
            self.encrypted_headers = ""
        elif not self._has_secret_headers(secret):
            self.encrypted_headers = credentials.encrypt(json.dumps(secret))

    def _has_secret_headers(self, wanted: dict[str, str]) -> bool:
        try:
            return self.secret_headers == wanted
        except credentials.CredentialUnreadable:
            return False

    def clean(self) -> None:
        super().clean()
        if not isinstance(self.extra_headers, dict):
            return  # the field's own check says so
        try:
            validate_headers(self.headers)
        except credentials.CredentialUnreadable:
            pass  # compiling says so; here it must not keep an admin from mending it
        except ValidationError as error:
            raise ValidationError({"extra_headers": error}) from None

    def save(self, *, update_fields: Iterable[str] | None = None, **options: Any) -> None:
        """Extra headers that hold credentials are taken out of the plain ones and encrypted."""
        if isinstance(self.extra_headers, dict) and secret_headers.split(self.extra_headers)[1]:
            self.headers = self._all_headers()
            update_fields = update_fields and {*update_fields, "extra_headers", "encrypted_headers"}
        super().save(update_fields=update_fields, **options)

    def _all_headers(self) -> dict[str, str]:
        try:
            return self.headers
        except credentials.CredentialUnreadable:
            return self.extra_headers

    @property
    def masked_api_key(self) -> str:
        try:
            return credentials.mask(self.api_key)
        except credentials.CredentialUnreadable:
            return "unreadable: encrypted under a key that is not in ENCRYPTION_KEYS"

    @property
    def _default_health_path(self) -> str:
        path: str = DIALECT_DEFAULTS[self.dialect]["health_path"]
        return path

    @property
    def guesses_health_path(self) -> bool:
        """Whether probes go where the dialect has it, and not where an admin said."""
        return self.health_path in ("", self._default_health_path)

    @property
    def health_url(self) -> str:
        """Where probes go; see health_path."""
        path = self.health_path or self._default_health_path
        if path.startswith("/"):
            scheme, rest = called_at(self.base_url).split("//", 1)
            return f"{scheme}//{rest.split('/', 1)[0]}{path}"
        return f"{called_at(self.base_url)}/{path}"
