"""Model routes with their targets."""

import re
from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import ADDITION
from django.db import transaction
from django.db.models import Field, ForeignKey, Prefetch, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.decorators import display

from routing.admin.base import (
    NOTHING,
    PLAIN_NUMBERS,
    JsonObjectField,
    NamesField,
    change_link,
    change_url,
    lines,
    link,
    list_url,
    nowrap,
    record,
)
from routing.admin.budgets import LIMITS, BudgetAdmin, BudgetForm, budget_fieldset
from routing.models import ModelRoute, RouteFallback, RouteTarget
from routing.models.route import name_validator
from routing.strategies import STRATEGIES

TARGETS_SHOWN = 4
_INLINE_WIDTHS = {"provider": "9rem", "upstream_model": "16rem", "enabled": "0"}
NAME_LENGTH = ModelRoute._meta.get_field("name").max_length or 0


class ModelRouteForm(BudgetForm):
    aliases = NamesField(
        check_each=name_validator, help_text="Further names for the same route, one on each line."
    )
    default_parameters = JsonObjectField(
        example='{"temperature": 0.7, "max_tokens": 1000}',
        help_text=ModelRoute._meta.get_field("default_parameters").help_text,
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "strategy" in self.fields:
            self.fields["strategy"].help_text = _strategies_help()


def _strategies_help() -> SafeString:
    rows = ((kind.label.split(":")[0], kind.help) for kind in STRATEGIES.values())
    return format_html(
        "In which order targets of the same priority are tried; a weight of 0 is a stand-in behind them.{}",
        format_html_join("", '<div class="mt-1"><b>{}</b>: {}</div>', rows),
    )


class TargetInline(TabularInline):
    model = RouteTarget
    extra = 0
    hide_title = True
    formfield_overrides = PLAIN_NUMBERS
    fields = (
        "provider",
        "upstream_model",
        "priority",
        "weight",
        "enabled",
        "rpm",
        "tpm",
        "parallel",
        "budget_usd",
        "budget_period",
        "input_price",
        "cached_input_price",
        "output_price",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[RouteTarget]:
        return super().get_queryset(request).select_related("provider")

    def formfield_for_foreignkey(self, field: ForeignKey, request: HttpRequest, **options: Any) -> Any:
        formfield = super().formfield_for_foreignkey(field, request, **options)
        formfield.choices = list(formfield.choices)  # read once, not once in every row
        return formfield

    def formfield_for_dbfield(self, field: Field, request: HttpRequest, **options: Any) -> Any:
        formfield = super().formfield_for_dbfield(field, request, **options)
        widget = getattr(formfield.widget, "widget", formfield.widget)
        widget.attrs["style"] = f"min-width: {_INLINE_WIDTHS.get(field.name, '5rem')}"
        return formfield


class FallbackInline(TabularInline):
    model = RouteFallback
    fk_name = "route"
    extra = 0
    hide_title = True
    fields = ("fallback", "kind", "position")
    autocomplete_fields = ("fallback",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[RouteFallback]:
        return super().get_queryset(request).select_related("fallback").order_by("kind", "position", "pk")


_FAILURES: tuple[str, dict[str, Any]] = (
    "When a provider fails",
    {
        "fields": [
            ("max_attempts", "on_cut"),
            ("attempt_timeout", "first_byte_timeout", "stall_timeout"),
            ("hedge_after_ms", "wait_for_preferred"),
        ],
        "description": "After this route's targets its fallbacks are tried, listed at the end of the page; "
        "the fallbacks of these are not. A provider's refusal of the content is handed to the caller as it "
        "is, unless a fallback is listed for it.",
    },
)


@admin.register(ModelRoute)
class ModelRouteAdmin(BudgetAdmin):
    form = ModelRouteForm
    inlines = (TargetInline, FallbackInline)
    list_display = ("name", "shown_aliases", "shown_strategy", "shown_targets", "enabled")
    list_filter = ("enabled", "strategy", ("targets__provider", admin.RelatedOnlyFieldListFilter))
    search_fields = ("name", "aliases", "targets__upstream_model")
    search_help_text = "Name, alias or upstream model"
    actions = ("enable", "disable", "duplicate")
    autocomplete_fields = ("over_limit_route",)

    def get_fieldsets(self, request: HttpRequest, obj: ModelRoute | None = None) -> list[tuple[Any, Any]]:
        return [
            (None, {"fields": ["name", "aliases", "enabled"]}),
            (
                "Serving",
                {
                    "fields": ["strategy", ("deadline", "max_messages"), "default_parameters", "content_log"],
                    "description": "How a request for this model is tried, and what is added to it.",
                },
            ),
            _FAILURES,
            LIMITS,
            budget_fieldset(obj, "max_output_tokens"),
            ("Over a limit", {"fields": ["over_limit_route"]}),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelRoute]:
        targets = RouteTarget.objects.select_related("provider").order_by("priority", "-weight", "pk")
        return super().get_queryset(request).prefetch_related(Prefetch("targets", targets))

    @display(description="Aliases")
    def shown_aliases(self, route: ModelRoute) -> Any:
        return lines(route.aliases) if route.aliases else NOTHING

    @display(description="Strategy", ordering="strategy")
    def shown_strategy(self, route: ModelRoute) -> SafeString:
        return nowrap(route.strategy, route.get_strategy_display())

    @display(description="Targets")
    def shown_targets(self, route: ModelRoute) -> Any:
        targets = list(route.targets.all())
        parts: list[Any] = [_target_line(target) for target in targets[:TARGETS_SHOWN]]
        if len(targets) > TARGETS_SHOWN:
            url = list_url("routing_routetarget", route__id__exact=route.pk)
            parts.append(link(url, f"and {len(targets) - TARGETS_SHOWN} more"))
        return lines(parts) if parts else "none"

    @admin.action(description="Duplicate selected model routes", permissions=["add"])
    def duplicate(self, request: HttpRequest, queryset: QuerySet[ModelRoute]) -> None:
        with transaction.atomic():
            taken = _taken_names()
            copies = [_duplicate(route, taken) for route in queryset]
            record(request, copies, ADDITION, [{"added": {}}])
        names = format_html_join(", ", "{}", ((change_link(route),) for route in copies))
        made = "1 disabled copy" if len(copies) == 1 else f"{len(copies)} disabled copies"
        self.message_user(request, format_html("{} made: {}.", made, names), messages.SUCCESS)


def _target_line(target: RouteTarget) -> SafeString:
    state = "" if target.enabled and target.provider.enabled else " (off)"
    state = state or _role(target)
    return link(
        change_url(target),
        f"{target.provider.slug}/{target.upstream_model}{state}",
        f"Priority {target.priority}, weight {target.weight}",
    )


def _role(target: RouteTarget) -> str:
    if target.canary_percent is not None:
        return f" (canary {target.canary_percent:g} %)"
    if target.shadow_percent is not None:
        return f" (shadow {target.shadow_percent:g} %)"
    return ""


def _taken_names() -> set[str]:
    taken: set[str] = set()
    for name, aliases in ModelRoute.objects.values_list("name", "aliases"):
        taken |= {name, *aliases}
    return taken


_NOT_COPIED = {"id", "name", "aliases", "enabled", "created_at", "updated_at"}


def _duplicate(route: ModelRoute, taken: set[str]) -> ModelRoute:
    columns = [field.attname for field in ModelRoute._meta.concrete_fields if field.name not in _NOT_COPIED]
    copy = ModelRoute(
        name=copied_name(route.name, taken),
        enabled=False,
        **{column: getattr(route, column) for column in columns},
    )
    taken.add(copy.name)
    copy.save()
    RouteTarget.objects.bulk_create(_given_to(copy, route.targets.all()))
    RouteFallback.objects.bulk_create(_given_to(copy, route.fallback_links.all()))
    return copy


def _given_to(route: ModelRoute, rows: Iterable[Any]) -> list[Any]:
    """The rows as new ones of this route."""
    copies = list(rows)
    for row in copies:
        row.pk, row.route = None, route
        row._state.adding = True
    return copies


def copied_name(name: str, taken: set[str]) -> str:
    """A free route name: gpt-4-copy, gpt-4-copy-2; a wildcard stays one (openai-copy/*)."""
    stem, wildcard = re.fullmatch(r"(.*?)([/:._-]?\*)?", name).groups("")  # type: ignore[union-attr]
    number = 1
    while True:
        suffix = ("-copy" if number == 1 else f"-copy-{number}") + wildcard
        candidate = (stem[: NAME_LENGTH - len(suffix)] + suffix).lstrip("-")
        if candidate not in taken:
            return candidate
        number += 1
