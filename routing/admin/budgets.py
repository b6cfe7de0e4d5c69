"""Limits and budgets on the admin's forms: what is spent, what is left, topping up."""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.module_loading import import_string
from unfold.decorators import display

from routing import unpriced
from routing.admin.base import NOTHING, PlainNumberWidget, SwitchAdmin, usd
from routing.limit_owners import limit_owners_of
from routing.models.limits import Limited
from routing.periods import Periods
from routing.unreadable import Faults

LIMITS = ("Limits", {"fields": [("rpm", "tpm", "parallel")], "description": "Blank: no limit."})
LARGEST = Decimal(10**6)  # what the column holds, excluded
NANO = Decimal(10) ** 9
MOST_LOOKED_AT = 20  # rows that are enabled together


class BudgetForm(forms.ModelForm):
    top_up = forms.DecimalField(
        label="Top up by USD",
        required=False,
        max_digits=15,
        decimal_places=9,
        min_value=Decimal("0.000000001"),
        widget=PlainNumberWidget(),
        help_text="Added to the budget when you save; what was spent stays. The history keeps it.",
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if "budget_usd" in self.fields:
            # Tells an amount that was edited from one that another admin has topped up meanwhile.
            self.fields["budget_usd"].show_hidden_initial = True

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        top_up, budget = cleaned.get("top_up"), cleaned.get("budget_usd")
        if top_up and budget is None:
            self.add_error("top_up", "Allowed only where there is a budget to top up.")
        elif top_up and budget + top_up >= LARGEST:
            self.add_error("top_up", f"Allowed is a budget below {LARGEST:,} USD.")
        return cleaned


class BudgetAdmin(SwitchAdmin):
    form: Any = BudgetForm
    readonly_fields: tuple[str, ...] = ("shown_spending",)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if top_up := form.cleaned_data.get("top_up"):
            obj.budget_usd = self._budget_now(obj, form) + top_up
        super().save_model(request, obj, form, change)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """All of it is stored then: the routes of a key, the targets of a route."""
        super().save_related(request, form, formsets, change)
        for text in unpriced.told(form.instance):
            messages.warning(request, text)

    def switch(self, request: HttpRequest, queryset: QuerySet[Any], *, enabled: bool, done: str = "") -> None:
        rows = list(queryset) if enabled else []
        super().switch(request, queryset, enabled=enabled, done=done)
        for text in dict.fromkeys(text for row in rows[:MOST_LOOKED_AT] for text in unpriced.told(row)):
            messages.warning(request, text)

    def _budget_now(self, obj: Any, form: Any) -> Decimal:
        """The form's, where it was edited; else the row's, which another admin may have topped up."""
        if obj.pk is None or "budget_usd" in form.changed_data:
            return obj.budget_usd
        stored = self.model._default_manager.select_for_update().get(pk=obj.pk)
        budget: Decimal | None = stored.budget_usd
        if budget is None or budget + form.cleaned_data["top_up"] >= LARGEST:
            raise ValidationError("The budget was changed meanwhile: open the form again.")
        return budget

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> Any:
        message = super().construct_change_message(request, form, formsets, add)
        top_up = form.cleaned_data.get("top_up")
        if not top_up:
            return message
        return f"Budget topped up by {usd(top_up)} USD to {usd(form.instance.budget_usd)} USD."

    @display(description="Spent in this period")
    def shown_spending(self, row: Limited) -> str:
        """By the request log, so without calls that run now."""
        owner = next(iter(Faults().made(row, limit_owners_of) or ()), None) if row.pk else None
        if owner is None or owner.budget is None:
            return NOTHING
        start, end = Periods().of(owner.budget, time.time())
        spent: Callable[..., int] = import_string(settings.SPENT)
        used = Decimal(spent(owner, start, end)) / NANO
        left = max(Decimal(owner.budget.limit_nano) / NANO - used, Decimal(0))
        return f"{usd(used)} USD, {usd(left)} USD left"


def budget_fieldset(row: models.Model | None, *more: str) -> tuple[str, dict[str, Any]]:
    fields: list[Any] = [("budget_usd", "budget_period"), *more]
    if row is not None:
        fields[1:1] = [("shown_spending", "top_up")]
    return "Budget", {"fields": fields, "description": "Money that may be spent. Blank: no budget."}
