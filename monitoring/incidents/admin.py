"""Incidents of the status page: what the gateway recorded, and what an admin adds or says of it."""

from typing import Any

from django import forms
from django.contrib import admin
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from monitoring.incidents.models import Incident
from routing.admin.base import NOTHING, NamesField, badge, lines, nowrap, utc


class IncidentForm(forms.ModelForm):
    routes = NamesField(help_text="Names of the model routes it is about, one on each line.")


@admin.register(Incident)
class IncidentAdmin(ModelAdmin):
    form = IncidentForm
    list_display = ("shown_title", "state", "shown_times", "shown_routes", "made_by", "shown")
    list_filter = ("shown",)
    list_select_related = ("provider", "alert")
    search_fields = ("title", "note")
    fields = ("title", "note", ("started_at", "ended_at"), "routes", "shown", "made_by")
    readonly_fields = ("made_by",)
    compressed_fields = False
    empty_value_display = NOTHING
    list_per_page = 50

    def get_changeform_initial_data(self, request: Any) -> dict[str, Any]:
        return {"started_at": timezone.now(), **super().get_changeform_initial_data(request)}

    @display(description="Title", ordering="title")
    def shown_title(self, row: Incident) -> SafeString:
        note = row.note if len(row.note) <= 80 else f"{row.note[:79]}…"
        return lines([part for part in (row.title, note) if part])

    @display(description="State")
    def state(self, row: Incident) -> SafeString:
        return badge("over", "success") if row.ended_at else badge("lasts", "danger")

    @display(description="From, until (UTC)", ordering="started_at")
    def shown_times(self, row: Incident) -> SafeString:
        return lines([utc(row.started_at), utc(row.ended_at)])

    @display(description="Routes")
    def shown_routes(self, row: Incident) -> SafeString:
        return nowrap(", ".join(map(str, row.routes[:3])) or NOTHING, ", ".join(map(str, row.routes)))

    @display(description="Recorded from")
    def made_by(self, row: Incident) -> str:
        if row.provider is not None:
            return f"health of {row.provider.slug}"
        return f"alert: {row.alert.summary}" if row.alert is not None else "an admin"
