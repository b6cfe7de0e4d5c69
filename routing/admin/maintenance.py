"""Maintenance windows of providers."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.decorators import display

from routing.admin.base import NOTHING, badge, change_link
from routing.models import MaintenanceWindow

_KINDS = {"running": "warning", "planned": "info"}


@admin.register(MaintenanceWindow)
class MaintenanceWindowAdmin(ModelAdmin):
    list_display = ("shown_window", "shown_provider", "shown_state", "starts_at", "ends_at", "reason")
    list_filter = ("provider",)
    list_select_related = ("provider",)
    fields = (("provider", "reason"), ("starts_at", "ends_at"))
    actions = ("end_now",)
    empty_value_display = NOTHING
    compressed_fields = False
    warn_unsaved_form = True

    @admin.action(description="End selected maintenance windows now", permissions=["change"])
    def end_now(self, request: HttpRequest, queryset: QuerySet[MaintenanceWindow]) -> None:
        now = timezone.now()
        running = MaintenanceWindow.objects.running(now).filter(pk__in=queryset.values("pk"))
        # One that began this very moment must still end after its start.
        ended = running.filter(starts_at__lt=now).update(ends_at=now)
        self.message_user(request, f"{ended} maintenance windows ended.", messages.SUCCESS)

    @display(description="Window")
    def shown_window(self, window: MaintenanceWindow) -> str:
        return str(window)

    @display(description="Provider")
    def shown_provider(self, window: MaintenanceWindow) -> SafeString:
        return change_link(window.provider)

    @display(description="State")
    def shown_state(self, window: MaintenanceWindow) -> SafeString:
        state = window.state(timezone.now())
        return badge(state, _KINDS.get(state, ""))
