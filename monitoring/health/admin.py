"""The routing admin's providers, with what health checks found over time."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import action, display

from monitoring.health import traffic
from monitoring.health.charts import daily_uptime, latency_chart
from monitoring.health.models import HealthCheck, HealthTransition
from monitoring.health.running import check_now
from monitoring.health.summary import load, open_circuits
from routing.admin.base import NOTHING, badge, change_url, lines, link, nowrap, utc
from routing.admin.providers import HEALTH_KIND, ProviderAdmin
from routing.models import MaintenanceWindow, Provider

MOST_AT_ONCE = 20
SHOWN_CHECKS, SHOWN_TRANSITIONS = 30, 50
_LEVELS = {"healthy": messages.SUCCESS, "degraded": messages.WARNING, "unknown": messages.WARNING}

admin.site.unregister(Provider)


@admin.register(Provider)
class WatchedProviderAdmin(ProviderAdmin):
    list_display = (
        *(column for column in ProviderAdmin.list_display[:-2] if column not in ("name", "shown_dialect")),
        "shown_uptime",
        "shown_latency",
        *ProviderAdmin.list_display[-2:],
    )
    actions = (*ProviderAdmin.actions, "check_selected")
    actions_detail = ("to_history",)

    def get_urls(self) -> list[URLPattern]:
        own = [
            path(
                "<int:provider_id>/health/",
                self.admin_site.admin_view(self.history_of_health),
                name="routing_provider_health",
            ),
            path(
                "<int:provider_id>/check/",
                self.admin_site.admin_view(self.check_this),
                name="routing_provider_check",
            ),
        ]
        return [*own, *super().get_urls()]

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        found = super().get_changelist_instance(request)
        providers = list(found.result_list)
        health = load(providers, timezone.now())
        windows = MaintenanceWindow.objects.running(timezone.now()).filter(provider__in=providers)
        circuits = open_circuits(providers)
        resting = set(windows.values_list("provider", flat=True))
        for provider in providers:
            provider.health_over_time = health[provider.pk]
            provider.rests = provider.pk in resting
            provider.open_circuits = circuits.get(provider.pk, [])
        found.result_list = providers
        return found

    @display(description="Health", ordering="health__status")
    def shown_health(self, provider: Provider) -> SafeString:
        """Its targets' open circuits too: they may be open while its checks are good."""
        found = [badge("maintenance", "info")] if getattr(provider, "rests", False) else []
        circuits = [badge(text, kind, why) for text, kind, why in getattr(provider, "open_circuits", ())]
        return lines([*found, super().shown_health(provider), *circuits])

    @display(description="Uptime")
    def shown_uptime(self, provider: Any) -> SafeString:
        return lines(provider.health_over_time.uptime_texts())

    @display(description="Latency 24 h")
    def shown_latency(self, provider: Any) -> SafeString:
        url = reverse("admin:routing_provider_health", args=[provider.pk])
        return format_html('<a href="{}">{}</a>', url, provider.health_over_time.sparkline())

    @admin.action(description="Check selected providers now", permissions=["change"])
    def check_selected(self, request: HttpRequest, queryset: QuerySet[Provider]) -> None:
        providers = list(queryset[: MOST_AT_ONCE + 1])
        if len(providers) > MOST_AT_ONCE:
            self.message_user(request, f"Select up to {MOST_AT_ONCE} providers.", messages.ERROR)
        else:
            self._check(request, providers)

    def check_this(self, request: HttpRequest, provider_id: int) -> HttpResponse:
        if request.method != "POST" or not self.has_change_permission(request):
            raise PermissionDenied
        self._check(request, [get_object_or_404(Provider, pk=provider_id)])
        return HttpResponseRedirect(reverse("admin:routing_provider_health", args=[provider_id]))

    @action(description="Health history", url_path="to-health", icon="timeline")
    def to_history(self, request: HttpRequest, object_id: int) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:routing_provider_health", args=[object_id]))

    def _check(self, request: HttpRequest, providers: list[Provider]) -> None:
        for result, status in check_now(providers):
            found = result.detail or f"answered in {result.latency_ms:,.0f} ms"
            text = f"{result.provider.slug}: {found}. It is {status}."
            self.message_user(request, text, _LEVELS.get(status, messages.ERROR))

    def history_of_health(self, request: HttpRequest, provider_id: int) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        provider = get_object_or_404(Provider.objects.select_related("health"), pk=provider_id)
        health = load([provider], timezone.now())[provider.pk]
        context = {
            **self.admin_site.each_context(request),
            "title": f"Health of {provider.name}",
            "opts": self.opts,
            "provider_link": link(change_url(provider), provider.slug),
            "status": super().shown_health(provider),
            "check_url": reverse("admin:routing_provider_check", args=[provider_id]),
            "uptime_texts": health.uptime_texts(),
            "chart": latency_chart(provider, timezone.now()),
            "days": daily_uptime(provider, timezone.now()),
            "traffic": _traffic(provider, timezone.now()),
            "transitions": _transitions(provider),
            "checks": _checks(provider),
        }
        return TemplateResponse(request, "admin/monitoring/provider_health.html", context)


def _status(status: str) -> SafeString:
    return badge(status, HEALTH_KIND.get(status, ""))


def _transitions(provider: Provider) -> dict[str, Any]:
    rows = HealthTransition.objects.filter(provider=provider)[:SHOWN_TRANSITIONS]
    return {
        "headers": ["At (UTC)", "From", "To", "Why", "Evidence"],
        "rows": [
            [utc(row.at), _status(row.before), _status(row.after), row.reason, _evidence(row.evidence)]
            for row in rows
        ],
    }


def _evidence(evidence: dict[str, Any]) -> SafeString:
    """What it was judged by: a check, or requests with links to the log."""
    found = []
    for target in evidence.get("targets", ()):
        counts = (
            f"{target['model']}: {target['failures']} of {target['attempts']}, {target['mean_ms']:,.0f} ms"
        )
        found += [counts, *(_to_request(request_id) for request_id in target["request_ids"])]
    if "latency_ms" in evidence:
        kind = {"get": "GET"}.get(evidence.get("kind", ""), evidence.get("kind", "check"))
        found.append(f"{kind} in {evidence['latency_ms']:,.0f} ms")
    return lines(found) if found else nowrap(NOTHING)


def _to_request(request_id: str) -> SafeString:
    url = reverse("admin:monitoring_requestlog_changelist")
    return link(
        f"{url}?{urlencode({'q': request_id})}", f"{request_id[:20]}…" if len(request_id) > 21 else request_id
    )


def _traffic(provider: Provider, now: datetime) -> dict[str, Any]:
    rows = [
        [
            found.model,
            f"{found.attempts:,}",
            f"{found.failures:,}",
            f"{found.ms / found.attempts:,.0f} ms",
            found.detail or NOTHING,
            lines(map(_to_request, found.request_ids)) or NOTHING,
        ]
        for found in traffic.seen(now, provider.slug)
    ]
    headers = ["Target", "Attempts", "Failed", "Mean time", "Last failure", "Failed requests"]
    return {"headers": headers, "rows": rows}


def _checks(provider: Provider) -> dict[str, Any]:
    rows = HealthCheck.objects.filter(provider=provider)[:SHOWN_CHECKS]
    return {
        "headers": ["At (UTC)", "Asked by", "Result", "Latency", "Status after it"],
        "rows": [
            [
                utc(row.at),
                row.get_kind_display(),
                nowrap(row.detail or "ok"),
                f"{row.latency_ms:,.1f} ms",
                _status(row.status),
            ]
            for row in rows
        ],
    }
