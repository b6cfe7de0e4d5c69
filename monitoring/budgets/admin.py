"""Budgets in the admin: who is close to the limit, on the first page, and what each period came to."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.safestring import SafeString
from unfold.decorators import display

from monitoring.budgets.models import BudgetPeriod
from routing.admin.base import NOTHING, ReadOnlyAdmin, badge, link, list_url, nowrap, usd, utc

SHOWN = 10
CLOSE = 50.0  # percent used, from which a budget is on the first page
WARNING, DANGER = 80.0, 100.0


def add_budgets(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """For those who may see budgets: the running periods that have used most."""
    if request.user.has_perm("monitoring.view_budgetperiod"):
        close = BudgetPeriod.objects.filter(closed_at=None, used_percent__gte=CLOSE).order_by("-used_percent")
        context["budgets"] = {
            "headers": ["Budget", "Used", "Spent USD", "Limit USD", "Resets (UTC)"],
            "rows": [_row(one) for one in close[:SHOWN]],
        }
        context["budgets_url"] = list_url("monitoring_budgetperiod", state="running")
    return context


def _row(one: BudgetPeriod) -> list[Any]:
    url = list_url("monitoring_budgetperiod", kind__exact=one.kind, owner_id=one.owner_id)
    resets = NOTHING if one.ends_at is None else utc(one.ends_at)
    return [link(url, f"{one.kind} {one.name}"), used(one), usd(one.spent_usd), usd(one.limit_usd), resets]


def used(one: BudgetPeriod) -> SafeString:
    kind = "danger" if one.used_percent >= DANGER else "warning" if one.used_percent >= WARNING else "success"
    return badge(f"{one.used_percent:.0f} %", kind)


class StateFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("running", "running"), ("closed", "closed")]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(closed_at__isnull=self.value() == "running") if self.value() else queryset


@admin.register(BudgetPeriod)
class BudgetPeriodAdmin(ReadOnlyAdmin):
    list_display = (
        "kind",
        "name",
        "period",
        "shown_start",
        "shown_end",
        "shown_used",
        "shown_spent",
        "shown_limit",
        "shown_closing",
    )
    list_filter = (StateFilter, "kind", "period")
    search_fields = ("name",)

    @display(description="From (UTC)", ordering="starts_at")
    def shown_start(self, one: BudgetPeriod) -> Any:
        return NOTHING if one.ends_at is None else nowrap(utc(one.starts_at))

    @display(description="Until (UTC)", ordering="ends_at")
    def shown_end(self, one: BudgetPeriod) -> Any:
        return nowrap(utc(one.ends_at))

    @display(description="Used", ordering="used_percent")
    def shown_used(self, one: BudgetPeriod) -> SafeString:
        return used(one)

    @display(description="Spent USD", ordering="spent_nano")
    def shown_spent(self, one: BudgetPeriod) -> str:
        return usd(one.spent_usd)

    @display(description="Limit USD", ordering="limit_nano")
    def shown_limit(self, one: BudgetPeriod) -> str:
        return usd(one.limit_usd)

    @display(description="Closed (UTC)", ordering="closed_at")
    def shown_closing(self, one: BudgetPeriod) -> Any:
        return badge("running", "info") if one.closed_at is None else nowrap(utc(one.closed_at))
