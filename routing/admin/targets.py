"""Route targets across all routes."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.decorators import display

from routing.admin.base import TagsField, change_link, limits_text, nowrap
from routing.admin.budgets import LIMITS, BudgetAdmin, BudgetForm, budget_fieldset
from routing.models import RouteTarget


class RouteTargetForm(BudgetForm):
    tags = TagsField(RouteTarget)


@admin.register(RouteTarget)
class RouteTargetAdmin(BudgetAdmin):
    form = RouteTargetForm
    list_display = (
        "upstream_model",
        "shown_route",
        "shown_provider",
        "priority",
        "weight",
        "limits",
        "prices",
        "enabled",
    )
    list_filter = ("enabled", "provider", "route")
    list_select_related = ("route", "provider")
    search_fields = ("upstream_model", "route__name", "provider__slug")
    search_help_text = "Upstream model, route or provider"
    autocomplete_fields = ("route", "provider")
    readonly_fields = ("related_links", "shown_spending")

    def get_fieldsets(self, request: HttpRequest, obj: RouteTarget | None = None) -> list[tuple[Any, Any]]:
        first: list[Any] = [("route", "provider"), "upstream_model", ("priority", "weight"), "enabled"]
        return [
            (None, {"fields": first if obj is None else [*first, "related_links"]}),
            (
                "Traffic",
                {
                    "fields": ["tags", ("canary_percent", "shadow_percent")],
                    "description": "For targets that serve some of the route's requests only.",
                },
            ),
            LIMITS,
            budget_fieldset(obj),
            (
                "Prices",
                {
                    "fields": [
                        ("input_price", "output_price", "request_price"),
                        ("cached_input_price", "cache_write_price", "cache_write_1h_price"),
                        "reasoning_price",
                        ("audio_input_price", "audio_output_price"),
                        ("image_input_price", "image_output_price"),
                    ],
                    "description": "Only where this account pays something else than the price list says. "
                    "Where the price of prompt tokens is given, blank ones of their parts (cached, audio, "
                    "images) are the same; so are those of answer tokens.",
                },
            ),
        ]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RouteTarget]:
        return super().get_queryset(request).select_related("route", "provider")

    @display(description="Route", ordering="route__name")
    def shown_route(self, target: RouteTarget) -> SafeString:
        return change_link(target.route)

    @display(description="Provider", ordering="provider__slug")
    def shown_provider(self, target: RouteTarget) -> SafeString:
        return change_link(target.provider)

    @display(description="Limits")
    def limits(self, target: RouteTarget) -> SafeString:
        return limits_text(target)

    @display(description="USD per million in / out")
    def prices(self, target: RouteTarget) -> SafeString:
        if target.input_price is None and target.output_price is None:
            return nowrap("price list")
        return nowrap(f"{_price(target.input_price)} / {_price(target.output_price)}")

    @display(description="Related")
    def related_links(self, target: RouteTarget) -> SafeString:
        route, provider = change_link(target.route), change_link(target.provider)
        return SafeString(f"Route {route} · Provider {provider}")


def _price(price: Any) -> str:
    return "price list" if price is None else f"{price:f}".rstrip("0").rstrip(".")
