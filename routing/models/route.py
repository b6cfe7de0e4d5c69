"""A model route: the public model name, and the targets that serve it."""

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from routing import strategies
from routing.models.content import content_constraint, content_field
from routing.models.fields import (
    choice_constraint,
    range_constraint,
    validate_names,
    validate_parameters,
    validate_tags,
)
from routing.models.limits import Limited, limit_constraints
from routing.models.provider import Provider
from routing.publishing import RoutingQuerySet

name_validator = RegexValidator(
    r"^[^\s*]+( +[^\s*]+)*\*?\Z|^\*\Z",
    "Allowed are names on one line, without a blank at either end; a * may stand at the end only (openai/*).",
)


class OnCut(models.TextChoices):
    ERROR = "error", "The caller gets what came, then an error"
    CONTINUE = "continue", "Another target goes on where it broke off"
    HOLD = "hold", "Nothing is sent until the answer is whole"


def seconds_field(what: str) -> models.FloatField:
    return models.FloatField(null=True, blank=True, help_text=f"{what}, 0.05 to 3,600. Blank: off.")


class ModelRouteQuerySet(RoutingQuerySet["ModelRoute"]):
    def enabled(self) -> "ModelRouteQuerySet":
        return self.filter(enabled=True)


class ModelRoute(Limited):
    name = models.CharField(
        "public model name",
        max_length=200,
        unique=True,
        validators=[name_validator],
        help_text="What callers send as model. A * at the end takes every name that starts like it.",
    )
    aliases = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_names],
        help_text='Further names for the same route, for example ["gpt-4", "best"].',
    )
    strategy = models.CharField(
        max_length=20,
        choices=strategies.choices,
        default=strategies.DEFAULT,
        help_text="In which order targets of the same priority are tried.",
    )
    deadline = models.FloatField(
        default=600,
        help_text="Seconds until the first byte of an answer, all tries together, 0.1 to 3,600.",
    )
    max_attempts = models.PositiveSmallIntegerField(
        default=10,
        help_text="Calls to providers for one request, all targets and fallbacks together, 1 to 50.",
    )
    attempt_timeout = seconds_field(
        "Seconds that one call to a provider may take, to its whole answer or a stream's first event"
    )
    first_byte_timeout = seconds_field("Seconds that one call may take to a stream's first event")
    stall_timeout = seconds_field("Seconds between two events of a stream, after which it counts as cut")
    wait_for_preferred = models.FloatField(
        "wait for the preferred target",
        null=True,
        blank=True,
        help_text="Seconds, 0.05 to 60, that a request waits for the target it would go to first, where that "
        "one answers 429 and says to come back so soon, although others are left. Blank: off.",
    )
    hedge_after_ms = models.PositiveIntegerField(
        "hedge after",
        null=True,
        blank=True,
        help_text="Milliseconds without an answer until a second target is asked as well, 1 to 600,000; the "
        "first answer wins, and both may cost. Blank: off.",
    )
    on_cut = models.CharField(
        "when a stream breaks off",
        max_length=10,
        choices=OnCut.choices,
        default=OnCut.ERROR,
        help_text="What the caller then gets. error: what came, and an error event. continue: one whole "
        "answer; the next target whose provider goes on with a begun answer does so, and only where there "
        "is none comes the error. hold: one whole answer, but nothing is sent until it is whole, so that "
        "another target can start anew.",
    )
    max_messages = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most messages in one request, 1 to 100,000. Blank: no limit."
    )
    default_parameters = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate_parameters],
        help_text='Sent where the caller gave none, for example {"temperature": 0.7, "max_tokens": 1000}.',
    )
    max_output_tokens = models.PositiveIntegerField(
        default=4096,
        help_text="Answer tokens reserved where neither the caller nor a default parameter says max_tokens, "
        "1 to 10,000,000; where a budget applies they are sent to the provider as well.",
    )
    content_log = content_field("key")
    over_limit_route = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="Serves a request that a limit or budget keeps from this route, if the key may use it; "
        "a cheaper one, for example. Blank: such a request gets 429.",
    )
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ModelRouteQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            range_constraint("modelroute", "deadline", 0.1, 3600),
            range_constraint("modelroute", "max_attempts", 1, 50),
            range_constraint("modelroute", "attempt_timeout", 0.05, 3600, nullable=True),
            range_constraint("modelroute", "first_byte_timeout", 0.05, 3600, nullable=True),
            range_constraint("modelroute", "stall_timeout", 0.05, 3600, nullable=True),
            range_constraint("modelroute", "wait_for_preferred", 0.05, 60, nullable=True),
            range_constraint("modelroute", "hedge_after_ms", 1, 600_000, nullable=True),
            choice_constraint("modelroute", "on_cut", OnCut),
            range_constraint("modelroute", "max_messages", 1, 100000, nullable=True),
            range_constraint("modelroute", "max_output_tokens", 1, 10_000_000),
            *limit_constraints("modelroute"),
            content_constraint("modelroute"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        others = ModelRoute.objects.exclude(pk=self.pk)
        self.clean_beside({other.name: other.aliases for other in others})

    def clean_beside(self, others: Mapping[str, list[str]]) -> None:
        """`others`: the names of all other routes, with their aliases."""
        other = self.over_limit_route
        if other is not None and (other == self or other.name.endswith("*")):
            raise ValidationError({"over_limit_route": "Allowed is another route whose name has no *."})
        self._check_aliases(self.aliases if isinstance(self.aliases, list) else [], others)

    def _check_aliases(self, aliases: list[str], others: Mapping[str, list[str]]) -> None:
        taken = set(aliases) & {self.name}
        for name, theirs in others.items():
            if self.name in theirs:
                raise ValidationError({"name": f"{self.name} is already an alias of the route {name}."})
            taken |= set(aliases) & {name, *theirs}
        if taken:
            raise ValidationError(
                {"aliases": f"{', '.join(sorted(taken))}: already the name or an alias of a route."}
            )
        for alias in aliases:
            name_validator(alias)


class RouteTargetQuerySet(RoutingQuerySet["RouteTarget"]):
    def serving(self) -> "RouteTargetQuerySet":
        """Targets that traffic may reach: they, their route and their provider are enabled."""
        return self.filter(enabled=True, route__enabled=True, provider__enabled=True)


def price_field(what: str) -> models.DecimalField:
    return models.DecimalField(
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        help_text=f"USD per million {what}, 0 or more. Blank: the price list's.",
    )


PRICE_FIELDS = (
    "input_price",
    "cached_input_price",
    "cache_write_price",
    "cache_write_1h_price",
    "output_price",
    "reasoning_price",
    "audio_input_price",
    "audio_output_price",
    "image_input_price",
    "image_output_price",
    "request_price",
)


class RouteTarget(Limited):
    route = models.ForeignKey(ModelRoute, on_delete=models.CASCADE, related_name="targets")
    provider = models.ForeignKey(Provider, on_delete=models.PROTECT, related_name="targets")
    upstream_model = models.CharField(
        max_length=200,
        help_text="The provider's own name of the model. A * becomes what the route's * stood for.",
    )
    weight = models.PositiveSmallIntegerField(
        default=1,
        help_text="Share of traffic among targets of the same priority, 0 to 1,000. "
        "0: only when the others fail.",
    )
    priority = models.PositiveSmallIntegerField(
        default=1, help_text="Lower numbers are tried first, 0 to 1,000."
    )
    tags = models.JSONField(
        default=list,
        blank=True,
        validators=[validate_tags],
        help_text="Serves only requests with one of these tags, and those before targets without tags. "
        "A request has its key's and its team's tags and those in x-litellm-tags. Blank: serves all.",
    )
    canary_percent = models.FloatField(
        null=True,
        blank=True,
        help_text="Canary: gets this share of the route's requests, 0 to 100, whatever the strategy says. "
        "The others reach it only when nothing else answers. Blank: no canary.",
    )
    shadow_percent = models.FloatField(
        null=True,
        blank=True,
        help_text="Shadow: gets a copy of this share of the route's requests, 0 to 100; its answers are "
        "logged and thrown away, and no caller ever gets one. Blank: no shadow.",
    )
    input_price = price_field("prompt tokens")
    cached_input_price = price_field("prompt tokens that the provider had cached")
    cache_write_price = price_field("prompt tokens that the provider cached")
    cache_write_1h_price = price_field("prompt tokens that the provider cached for an hour")
    output_price = price_field("answer tokens")
    reasoning_price = price_field("answer tokens that were reasoning")
    audio_input_price = price_field("prompt tokens that were audio")
    audio_output_price = price_field("answer tokens that were audio")
    image_input_price = price_field("prompt tokens that were images")
    image_output_price = price_field("answer tokens that were images")
    request_price = models.DecimalField(
        max_digits=14,
        decimal_places=6,
        null=True,
        blank=True,
        help_text="USD per answered request, beside its tokens, 0 or more. Blank: the price list's.",
    )
    enabled = models.BooleanField(default=True)

    objects = RouteTargetQuerySet.as_manager()

    class Meta:
        ordering = ["route", "priority", "-weight", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["route", "provider", "upstream_model"],
                name="routetarget_unique",
                violation_error_message="This route already has this model of this provider.",
            ),
            range_constraint("routetarget", "weight", 0, 1000),
            range_constraint("routetarget", "priority", 0, 1000),
            range_constraint("routetarget", "canary_percent", 0, 100, nullable=True),
            range_constraint("routetarget", "shadow_percent", 0, 100, nullable=True),
            models.CheckConstraint(
                condition=Q(canary_percent__isnull=True) | Q(shadow_percent__isnull=True),
                name="routetarget_canary_or_shadow",
                violation_error_message="A target is a canary or a shadow: leave one of the two blank.",
            ),
            *(
                models.CheckConstraint(
                    condition=Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__gte": 0}),
                    name=f"routetarget_{name}_min",
                    violation_error_message=f"{name.replace('_', ' ').capitalize()}: 0 and more, or blank.",
                )
                for name in PRICE_FIELDS
            ),
            *limit_constraints("routetarget"),
        ]

    def __str__(self) -> str:
        return f"{self.route} → {self.provider}/{self.upstream_model}"

    def clean(self) -> None:
        super().clean()
        route = getattr(self, "route", None)
        if "*" in self.upstream_model and route is not None and not route.name.endswith("*"):
            raise ValidationError(
                {"upstream_model": "A * is allowed only where the route's name ends with one."}
            )
