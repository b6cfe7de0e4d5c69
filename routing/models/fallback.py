"""The routes that stand in for a route, each for one kind of failure."""

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q

from routing.models.fields import choice_constraint, range_constraint
from routing.models.route import ModelRoute
from routing.publishing import RoutingQuerySet

NOT_ITSELF = "A route can't be its own fallback."


class FallbackKind(models.TextChoices):
    ERROR = "error", "No target answers"
    CONTEXT = "context", "Request too long for the model"
    POLICY = "policy", "Provider refuses the content"


class RouteFallbackQuerySet(RoutingQuerySet["RouteFallback"]):
    def serving(self) -> "RouteFallbackQuerySet":
        """Those that a request can reach, in the order in which they are tried."""
        # A wildcard's name says no model: it has none to ask for.
        return (
            self.filter(route__enabled=True, fallback__enabled=True)
            .exclude(fallback__name__endswith="*")
            .order_by("position", "pk")
        )


class RouteFallback(models.Model):
    """One of a route's stand-ins. Its own fallbacks are not followed, so circles do no harm."""

    route = models.ForeignKey(ModelRoute, on_delete=models.CASCADE, related_name="fallback_links")
    # Gone with the route that it names, as over_limit_route is; the admin's delete page lists it.
    fallback = models.ForeignKey(
        ModelRoute,
        on_delete=models.CASCADE,
        related_name="fallback_of",
        help_text="Tried if the key may use it. Its own fallbacks are not followed, so two routes may name "
        "each other.",
    )
    kind = models.CharField(
        "when",
        max_length=10,
        choices=FallbackKind.choices,
        default=FallbackKind.ERROR,
        help_text="Each kind of failure has its own list. Where no route is listed for refused content, the "
        "provider's refusal is handed to the caller as it is.",
    )
    position = models.PositiveSmallIntegerField(
        default=1, help_text="Lower numbers are tried first, 0 to 1,000."
    )

    objects = RouteFallbackQuerySet.as_manager()

    class Meta:
        verbose_name = "fallback"
        ordering = ["route", "kind", "position", "pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["route", "fallback", "kind"],
                name="routefallback_unique",
                violation_error_message="This route already has this fallback for this kind of failure.",
            ),
            models.CheckConstraint(
                condition=~Q(route=F("fallback")),
                name="routefallback_not_itself",
                violation_error_message=NOT_ITSELF,
            ),
            range_constraint("routefallback", "position", 0, 1000),
            choice_constraint("routefallback", "kind", FallbackKind),
        ]

    def __str__(self) -> str:
        return f"{self.route} → {self.fallback} ({self.kind})"

    def clean(self) -> None:
        super().clean()
        fallback = getattr(self, "fallback", None)
        if fallback is not None and fallback == getattr(self, "route", None):
            # The constraint says so too, but the admin's inline forms leave it to the database.
            raise ValidationError({"fallback": NOT_ITSELF})
        if fallback is not None and fallback.name.endswith("*"):
            raise ValidationError({"fallback": "Allowed is a route whose name has no *."})
