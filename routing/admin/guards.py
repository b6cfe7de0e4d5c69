"""Guards that a configuration file asks for and that are not active here: read, and acknowledge."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin

from routing.admin.base import NOTHING
from routing.models import InactiveGuard


class OpenFilter(admin.SimpleListFilter):
    title = parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Not acknowledged"), ("acknowledged", "Acknowledged")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[InactiveGuard]) -> QuerySet[InactiveGuard]:
        if self.value() is None:
            return queryset
        return queryset.filter(acknowledged_at__isnull=self.value() == "open")


@admin.register(InactiveGuard)
class InactiveGuardAdmin(ModelAdmin):
    list_display = ("name", "place", "source", "acknowledged_by", "acknowledged_at")
    list_filter = (OpenFilter,)
    readonly_fields = list_display
    actions = ("acknowledge",)
    empty_value_display = NOTHING

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Acknowledge: requests pass without them", permissions=["change"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[InactiveGuard]) -> None:
        count = queryset.filter(acknowledged_at=None).update(
            acknowledged_by=request.user.get_username(), acknowledged_at=timezone.now()
        )
        self.message_user(request, f"Acknowledged: {count}.", messages.SUCCESS)
