"""Providers: credentials are written, never shown; health comes from the probes."""

import copy
import re
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import Count, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.debug import sensitive_post_parameters
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldBooleanSwitchWidget

from routing import secret_headers
from routing.addresses import origin
from routing.admin.base import (
    NOTHING,
    JsonObjectField,
    badge,
    lines,
    link,
    list_url,
    nowrap,
    utc,
)
from routing.admin.budgets import BudgetAdmin, BudgetForm, budget_fieldset
from routing.compiler import provider_entry
from routing.models import Provider, ProviderHealth, RouteTarget
from routing.models.provider import DIALECT_DEFAULTS, WhenUnhealthy
from routing.unreadable import ROW_FAULTS, Faults

STALE_AFTER_PROBES = 3
LONGEST_DETAIL = 32  # characters in the list; the tip has all
_ADDED_FROM_DIALECT = ("api_version", "extra_headers", "when_unhealthy")
HEALTH_KIND = {"healthy": "success", "degraded": "warning", "unhealthy": "danger"}


_MASKED_HELP = (
    "Values of names such as x-api-key are stored encrypted and shown by their end; leave them as they "
    "are to keep them."
)
_MOVED = "The base URL has another scheme, host or port:"


class ProviderForm(BudgetForm):
    new_api_key = forms.CharField(
        label="New API key",
        required=False,
        max_length=4000,
        widget=UnfoldAdminPasswordWidget({"autocomplete": "new-password"}),
        help_text="Stored encrypted and never shown again. Blank: the stored one stays.",
    )
    clear_api_key = forms.BooleanField(
        label="Clear the stored API key",
        required=False,
        widget=UnfoldBooleanSwitchWidget(),
        help_text="Requests then go out without a key, unless callers bring their own.",
    )
    extra_headers = JsonObjectField(
        example='{"User-Agent": "ZAI-Gateway/1.0"}',
        help_text=Provider._meta.get_field("extra_headers").help_text,
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._kept_headers: list[str] = []
        if self.instance.pk is None and "when_unhealthy" in self.fields:
            self._offer_dialect_defaults()
        elif "extra_headers" in self.fields:
            self.initial["extra_headers"] = secret_headers.masked(self._stored_headers())
            self.fields["extra_headers"].help_text += f" {_MASKED_HELP}"

    def _stored_headers(self) -> dict[str, str]:
        try:
            return self.instance.headers
        except ROW_FAULTS:
            given = self.instance.extra_headers
            return secret_headers.split(given)[0] if isinstance(given, dict) else {}

    def _offer_dialect_defaults(self) -> None:
        self.fields["api_version"].help_text = "Sent as X-API-Version to Z.ai. Blank: the dialect's default."
        self.fields["extra_headers"].help_text += " Blank: the dialect's default."
        field = self.fields["when_unhealthy"]
        field.required = False
        field.choices = [("", "The dialect's default"), *WhenUnhealthy.choices]  # type: ignore[attr-defined]
        self.initial.setdefault("when_unhealthy", "")

    def clean_new_api_key(self) -> str:
        key: str = self.cleaned_data["new_api_key"]
        if not re.fullmatch(r"[!-~]*", key):
            raise ValidationError("Allowed are printable ASCII characters without blanks.")
        return key

    def clean_extra_headers(self) -> dict[str, Any]:
        given: dict[str, Any] = self.cleaned_data["extra_headers"]
        meant, self._kept_headers = secret_headers.unmasked(given, self._stored_headers())
        for name, text in meant.items():
            if secret_headers.is_masked(text):
                raise ValidationError(f"{name}: this value is not the stored one; type it anew.")
        return meant

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if cleaned.get("new_api_key") and cleaned.get("clear_api_key"):
            self.add_error("clear_api_key", "Allowed is either a new API key or clearing the stored one.")
        if self.instance.pk is None:
            self._fill_from_dialect(cleaned)
        else:
            self._check_move(cleaned)
        if isinstance(cleaned.get("extra_headers"), dict):
            self.instance.headers = cleaned["extra_headers"]
            cleaned["extra_headers"] = self.instance.extra_headers
        return cleaned

    def _check_move(self, cleaned: dict[str, Any]) -> None:
        """Whoever may edit the address must not have the stored credentials sent to a host of theirs."""
        base_url = cleaned.get("base_url")
        if base_url is None or origin(base_url) == origin(self.initial["base_url"]):
            return
        typed_anew = cleaned.get("new_api_key") or cleaned.get("clear_api_key")
        if self.instance.encrypted_api_key and not typed_anew:
            self.add_error("new_api_key", f"{_MOVED} type the API key anew, or clear it.")
        for name in self._kept_headers:
            self.add_error("extra_headers", f"{_MOVED} type the value of {name} anew, or take it out.")

    def _fill_from_dialect(self, cleaned: dict[str, Any]) -> None:
        defaults = DIALECT_DEFAULTS.get(cleaned.get("dialect", ""), {})
        for name in _ADDED_FROM_DIALECT:
            if name in defaults and name in cleaned and not cleaned[name]:
                cleaned[name] = copy.deepcopy(defaults[name])

    def save(self, commit: bool = True) -> Provider:
        if self.cleaned_data.get("new_api_key"):
            self.instance.api_key = self.cleaned_data["new_api_key"]
        elif self.cleaned_data.get("clear_api_key"):
            self.instance.api_key = ""
        return super().save(commit)


def _health(provider: Provider) -> ProviderHealth | None:
    # A reverse one-to-one has no None: reading one that isn't there raises.
    return getattr(provider, "health", None)


def _fault(provider: Provider) -> str:
    """Why nothing can be served from it, whatever its health."""
    faults = Faults()
    faults.made(provider, provider_entry)
    return next((fault.reason for fault in faults.all()), "")


def health_status(provider: Provider) -> str:
    """healthy, degraded, unhealthy; unknown where no probe has reported lately, disabled where none does."""
    if not (provider.enabled and provider.health_check_enabled):
        return "disabled"
    health = _health(provider)
    longest = timedelta(seconds=STALE_AFTER_PROBES * provider.health_interval)
    return "unknown" if health is None or health.checked_at < timezone.now() - longest else health.status


def _ago(moment: datetime) -> str:
    seconds = (timezone.now() - moment).total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


@admin.register(Provider)
class ProviderAdmin(BudgetAdmin):
    form = ProviderForm
    list_display: tuple[str, ...] = (
        "slug",
        "name",
        "shown_dialect",
        "shown_key",
        "base_url",
        "shown_health",
        "target_count",
        "enabled",
    )
    list_filter = ("enabled", "dialect", "health__status", "health_check_enabled")
    list_select_related = ("health",)
    search_fields = ("slug", "name", "base_url")
    readonly_fields = (
        "shown_key",
        "shown_status",
        "health_latency",
        "health_checked_at",
        "health_changed_at",
        "health_failures",
        "health_detail",
        "health_url",
        "related_links",
        "shown_spending",
    )

    def change_view(self, request: HttpRequest, object_id: str, *args: Any, **options: Any) -> HttpResponse:
        provider = self.get_object(request, object_id) if request.method == "GET" else None
        if provider is not None and (fault := _fault(provider)):
            messages.error(request, f"Nothing is served from it. {fault}")
        return super().change_view(request, object_id, *args, **options)

    @method_decorator(sensitive_post_parameters("new_api_key", "extra_headers"))
    def changeform_view(self, request: HttpRequest, *args: Any, **options: Any) -> HttpResponse:
        return super().changeform_view(request, *args, **options)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Provider]:
        targets = RouteTarget.objects.filter(provider=OuterRef("pk")).order_by().values("provider")
        counted = Subquery(targets.annotate(number=Count("pk")).values("number"))
        return super().get_queryset(request).annotate(targets_total=Coalesce(counted, 0))

    def get_fieldsets(self, request: HttpRequest, obj: Provider | None = None) -> list[tuple[Any, Any]]:
        key_rows: list[Any] = ["new_api_key", "allow_caller_key"]
        if obj is not None:
            key_rows = ["shown_key", ("new_api_key", "clear_api_key"), "allow_caller_key"]
        fieldsets: list[tuple[Any, Any]] = [
            (None, {"fields": [("slug", "name"), ("dialect", "base_url"), "enabled"]}),
            (
                "API key",
                {"fields": key_rows, "description": "The account's credential, encrypted in the database."},
            ),
            *_SETTINGS,
            budget_fieldset(obj),
        ]
        return [*fieldsets, _HEALTH_NOW] if obj is not None else fieldsets

    @display(description="Dialect", ordering="dialect")
    def shown_dialect(self, provider: Provider) -> SafeString:
        return nowrap(provider.dialect, provider.get_dialect_display())

    @display(description="API key")
    def shown_key(self, provider: Provider) -> str:
        return provider.masked_api_key or NOTHING

    @display(description="Health", ordering="health__status")
    def shown_health(self, provider: Provider) -> SafeString:
        health = _health(provider)
        status = self.shown_status(provider)
        found = [status, self._probe_text(health)] if health else [status]
        fault = _fault(provider)
        return lines([badge("not served", "danger", fault), *found] if fault else found)

    def _probe_text(self, health: ProviderHealth) -> SafeString:
        found = health.detail[:LONGEST_DETAIL]
        if not found and health.latency_ms is not None:
            found = f"{health.latency_ms:,.0f} ms"
        text = f"{found}, {_ago(health.checked_at)}" if found else _ago(health.checked_at)
        return nowrap(text, f"{health.detail} {utc(health.checked_at)} UTC".strip())

    @display(description="Targets", ordering="targets_total")
    def target_count(self, provider: Any) -> SafeString:
        url = list_url("routing_routetarget", provider__id__exact=provider.pk)
        return link(url, provider.targets_total, "Show this provider's targets")

    @display(description="Status")
    def shown_status(self, provider: Provider) -> SafeString:
        status = health_status(provider)
        health = _health(provider)
        why = health.detail if health else ""
        if status == "unknown" and (health is None or health.status != status):
            why = "No probe has reported lately."
        if status == "disabled":
            why = "The provider, or its health checks, are switched off."
        return badge(status, HEALTH_KIND.get(status, ""), why)

    @display(description="Latency")
    def health_latency(self, provider: Provider) -> str:
        health = _health(provider)
        return NOTHING if health is None or health.latency_ms is None else f"{health.latency_ms:,.1f} ms"

    @display(description="Checked at")
    def health_checked_at(self, provider: Provider) -> Any:
        health = _health(provider)
        return NOTHING if health is None else self._probe_time(health.checked_at)

    @display(description="Same status since")
    def health_changed_at(self, provider: Provider) -> str:
        health = _health(provider)
        return NOTHING if health is None else self._probe_time(health.changed_at)

    def _probe_time(self, moment: datetime) -> str:
        return f"{utc(moment)} UTC ({_ago(moment)})"

    @display(description="Failures in a row")
    def health_failures(self, provider: Provider) -> str:
        health = _health(provider)
        return NOTHING if health is None else str(health.failures)

    @display(description="Detail")
    def health_detail(self, provider: Provider) -> str:
        health = _health(provider)
        return (health.detail if health else "") or NOTHING

    @display(description="Probed URL")
    def health_url(self, provider: Provider) -> str:
        return provider.health_url

    @display(description="Related")
    def related_links(self, provider: Provider) -> SafeString:
        targets = link(list_url("routing_routetarget", provider__id__exact=provider.pk), "Route targets")
        log_url = list_url("monitoring_requestlog", provider=provider.slug)
        return format_html("{} · {}", targets, link(log_url, "Request log")) if log_url else targets


_SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (
        "Requests",
        {
            "fields": ["api_version", "extra_headers"],
            "description": "What is sent with each request, beside the caller's own body.",
        },
    ),
    (
        "Connections",
        {
            "fields": [
                ("connect_timeout", "read_timeout"),
                ("max_connections", "max_queue", "queue_timeout"),
                ("keep_alive", "prewarm"),
                ("key_share_percent", "max_answer_bytes"),
            ],
            "description": "How long the gateway waits.",
        },
    ),
    (
        "Failures",
        {
            "fields": [("retries", "retry_delay"), "continues"],
            "description": "How often the gateway tries again, and what becomes of a cut stream.",
        },
    ),
    (
        "What its errors mean",
        {
            "fields": [("words_too_long", "words_refused"), ("words_unpaid", "words_busy")],
            "description": "In addition to what the gateway knows of many providers (docs/providers.md).",
            "classes": ["collapse"],
        },
    ),
    (
        "Streams",
        {
            "fields": [("stream_usage", "when_abandoned")],
            "description": "How the cost of streams is known.",
        },
    ),
    (
        "Limits",
        {
            "fields": [("rpm", "tpm", "parallel")],
            "description": "What this account may be sent, all callers together.",
        },
    ),
    (
        "Health checks",
        {
            "fields": [
                "health_check_enabled",
                ("health_path", "when_unhealthy"),
                ("health_interval", "health_timeout", "health_slow_ms"),
                ("health_threshold", "health_recovery", "health_model"),
            ],
            "description": "Probes ask the provider whether it answers; the list shows what they found.",
        },
    ),
]
_HEALTH_NOW: tuple[str, dict[str, Any]] = (
    "Health now",
    {
        "fields": [
            ("shown_status", "health_latency", "health_failures"),
            ("health_checked_at", "health_changed_at"),
            "health_detail",
            "health_url",
            "related_links",
        ]
    },
)
