"""The one row of gateway settings."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.views.decorators.debug import sensitive_post_parameters
from unfold.admin import ModelAdmin

from routing import notices
from routing.admin.base import PLAIN_NUMBERS, NamesField, change_url
from routing.admin.config_file import config_file_view
from routing.models import GatewaySettings
from routing.models.content import check_pattern


class GatewaySettingsForm(forms.ModelForm):
    cors_origins = NamesField(
        label="CORS origins",
        help_text="Web origins whose pages may call the gateway, beside CORS_ALLOWED_ORIGINS: "
        "one on each line, for example https://app.example.com.",
    )
    content_patterns = NamesField(
        label="Patterns to redact",
        check_each=check_pattern,
        help_text="Regular expressions (RE2), one on each line, whose matches are replaced in logged "
        "content, beside credentials. They hold for what is stored from then on.",
    )


_BREAKER = (
    "Failing targets",
    {
        "fields": [
            "breaker_enabled",
            ("breaker_failures", "breaker_error_percent", "breaker_min_requests"),
            "cooldown_seconds",
        ],
        "description": "When a target is left out (its circuit opens), and for how long. Each web process "
        "judges by what it sees itself, and tells the others through Redis.",
    },
)


_STATUS = (
    "Status page",
    {
        "fields": [("status_public", "status_names_providers")],
        "description": "/status tells callers what works, /status.json the same to programs.",
    },
)


@admin.register(GatewaySettings)
class GatewaySettingsAdmin(ModelAdmin):
    form = GatewaySettingsForm
    warn_unsaved_form = True
    compressed_fields = False
    formfield_overrides = PLAIN_NUMBERS
    fieldsets = (
        (None, {"fields": ["cors_origins"]}),
        _BREAKER,
        _STATUS,
        ("Request log", {"fields": ["log_days", "content_days", "content_patterns"]}),
    )

    def change_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        for text in notices.current() if request.method == "GET" else ():
            messages.warning(request, text)
        return super().change_view(request, *args, **options)

    def get_urls(self) -> list[URLPattern]:
        load = self.admin_site.admin_view(self.load_view)
        return [path("load/", load, name="routing_gatewaysettings_load"), *super().get_urls()]

    @method_decorator(sensitive_post_parameters())
    def load_view(self, request: HttpRequest) -> HttpResponse:
        return config_file_view(self, request)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: GatewaySettings | None = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """There is no list of one: it leads to the row, made when it is first looked for."""
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied
        row, _ = GatewaySettings.objects.get_or_create(pk=1)
        return HttpResponseRedirect(change_url(row))
