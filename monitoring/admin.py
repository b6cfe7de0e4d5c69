"""The request log: read-only, and without a COUNT over a table that only grows."""

import uuid
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from monitoring.alerts import admin as alert_admin  # noqa: F401 registers
from monitoring.budgets import admin as budget_admin  # noqa: F401 registers
from monitoring.content.admin import content_link, content_view
from monitoring.health import admin as provider_admin  # noqa: F401 registers
from monitoring.incidents import admin as incident_admin  # noqa: F401 registers
from monitoring.pricing.admin import unpriced_view
from monitoring.reports import admin as report_admin  # noqa: F401 registers
from monitoring.request_log.models import CHAT, RequestLog
from monitoring.request_log.pages import LogChangeList, LogPaginator, ReceivedFilter
from monitoring.usage.admin import usage_view
from routing.admin.base import NOTHING, badge, change_link, lines, nowrap, utc
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget, Team

RECENT_ROWS = 1000
LONGEST_NAME = 36  # characters; a UUID fits
_OUTCOME_KIND = {
    RequestLog.Outcome.ANSWERED: "success",
    RequestLog.Outcome.REFUSED: "warning",
    RequestLog.Outcome.CLIENT_GONE: "warning",
    RequestLog.Outcome.CALLER_ERROR: "warning",
    RequestLog.Outcome.UPSTREAM_FAILED: "danger",
    RequestLog.Outcome.UPSTREAM_BROKEN: "danger",
    RequestLog.Outcome.FAILED: "danger",
}
_STATUS_KIND = {2: "success", 3: "info", 4: "warning", 5: "danger"}
_STATUS_GROUPS = {
    "2xx": ("2xx answered", Q(status__gte=200, status__lt=300)),
    "4xx": ("4xx all refusals", Q(status__gte=400, status__lt=500)),
    "401": ("401 no valid key", Q(status=401)),
    "429": ("429 over a limit", Q(status=429)),
    "5xx": ("5xx all failures", Q(status__gte=500)),
    "none": ("none sent", Q(status=None)),
}


class OutcomeFilter(ChoicesDropdownFilter):
    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        """The index of what is not answered has its condition; SQLite looks for it word by word."""
        found = super().queryset(request, queryset)
        chosen = request.GET.get(self.lookup_kwarg)
        usual = RequestLog.Outcome.ANSWERED
        return found.exclude(outcome=usual) if chosen not in (None, "", usual) else found


class StatusFilter(DropdownFilter):
    title = "status"
    parameter_name = "status_group"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(group, title) for group, (title, _) in _STATUS_GROUPS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        group = _STATUS_GROUPS.get(self.value() or "")
        return queryset.filter(group[1]) if group else queryset


class StreamFilter(DropdownFilter):
    title = parameter_name = "stream"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "streamed"), ("no", "in one piece")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        return queryset.filter(stream=self.value() == "yes") if self.value() else queryset


class ShadowFilter(DropdownFilter):
    title = parameter_name = "shadow"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "real requests"), ("yes", "copies to shadow targets")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        return queryset.filter(shadow=self.value() == "yes") if self.value() else queryset


class NameFilter(DropdownFilter):
    """By a name that the row holds; offers what small tables say, never a DISTINCT over the log."""

    def names(self) -> Iterable[str]:
        raise NotImplementedError

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        # The chosen one too: it may be the name of something deleted since.
        chosen = {self.value()} if self.value() else set()
        return [(name, name) for name in sorted({*self.names(), *chosen})]

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        return queryset.filter(**{self.parameter_name: self.value()}) if self.value() else queryset


class ProviderFilter(NameFilter):
    title = parameter_name = "provider"

    def names(self) -> Iterable[str]:
        return Provider.objects.values_list("slug", flat=True)


class RouteFilter(NameFilter):
    title = parameter_name = "route"

    def names(self) -> Iterable[str]:
        return ModelRoute.objects.values_list("name", flat=True)


class TeamFilter(NameFilter):
    title = parameter_name = "team"

    def names(self) -> Iterable[str]:
        return Team.objects.values_list("slug", flat=True)


class EndpointFilter(NameFilter):
    title = parameter_name = "endpoint"

    def names(self) -> Iterable[str]:
        recent = RequestLog.objects.order_by("-id").values_list("endpoint", flat=True)
        return set(recent[:RECENT_ROWS])

    def queryset(self, request: HttpRequest, queryset: QuerySet[RequestLog]) -> QuerySet[RequestLog]:
        found = super().queryset(request, queryset)  # the index leaves the usual endpoint out
        return found.exclude(endpoint=CHAT) if self.value() not in (None, "", CHAT) else found


@admin.register(RequestLog)
class RequestLogAdmin(ModelAdmin):
    list_display = (
        "received",
        "shown_answer",
        "shown_model",
        "shown_key",
        "tokens",
        "cost",
        "total",
        "ttft",
        "attempts",
        "shown_request_id",
    )
    list_filter = (
        ("received_at", ReceivedFilter),
        ("outcome", OutcomeFilter),
        StatusFilter,
        ProviderFilter,
        RouteFilter,
        TeamFilter,
        EndpointFilter,
        StreamFilter,
        ShadowFilter,
    )
    list_filter_submit = True
    list_fullwidth = True
    compressed_fields = False
    list_per_page = 50
    empty_value_display = NOTHING
    search_fields = ("request_id",)
    search_help_text = "Exact request id or row id"
    sortable_by = ()  # newest first: any other order sorts the whole table
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = LogPaginator
    readonly_fields = (
        "received",
        "shown_status",
        "shown_outcome",
        "key_link",
        "target_link",
        "trail",
        "tokens",
        "cost",
        "total",
        "overhead",
        "ttft",
        "shown_tags",
        "shown_form",
        "shown_counter",
        "shown_content",
        "shown_media_tokens",
    )
    fieldsets = (
        (
            "Request",
            {
                "fields": (
                    ("received", "request_id", "id"),
                    ("endpoint", "model", "shown_form", "shown_content"),
                    ("key_link", "team"),
                    ("client_info", "shown_tags"),
                    ("client_address", "user_agent"),
                )
            },
        ),
        (
            "Answer",
            {
                "fields": (
                    ("shown_status", "shown_outcome", "error_code"),
                    ("route", "provider", "upstream_model"),
                    ("target_link", "attempts", "shadow"),
                )
            },
        ),
        ("Attempts", {"fields": ("trail",)}),
        (
            "Tokens and cost",
            {
                "fields": (
                    ("input_tokens", "output_tokens", "cost"),
                    ("cached_tokens", "cache_write_tokens", "reasoning_tokens"),
                    ("shown_media_tokens", "shown_counter", "abandoned"),
                    "price",
                )
            },
        ),
        ("Time", {"fields": (("total", "overhead", "ttft"),)}),
    )

    def get_changelist(self, request: HttpRequest, **options: Any) -> type[LogChangeList]:
        return LogChangeList

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(partial(usage_view, self))
        content = self.admin_site.admin_view(partial(content_view, self))
        unpriced = self.admin_site.admin_view(partial(unpriced_view, self))
        return [
            path("usage/", view, name="monitoring_usage"),
            path("unpriced/", unpriced, name="monitoring_unpriced"),
            path("<str:object_id>/content/", content, name="monitoring_requestlog_content"),
            *super().get_urls(),
        ]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RequestLog | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RequestLog | None = None) -> bool:
        return False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[RequestLog], search_term: str
    ) -> tuple[QuerySet[RequestLog], bool]:
        """Both columns are indexed, so that a search never reads the whole log."""
        term = search_term.strip()
        if not term:
            return queryset, False
        wanted = Q(request_id=term)
        with suppress(ValueError):  # not a row id, then
            wanted |= Q(pk=uuid.UUID(term))
        return queryset.filter(wanted), False

    @display(description="Received (UTC)")
    def received(self, row: RequestLog) -> SafeString:
        return nowrap(utc(row.received_at))

    @display(description="Request id")
    def shown_request_id(self, row: RequestLog) -> SafeString:
        return _short(row.request_id)

    @display(description="Model and target")
    def shown_model(self, row: RequestLog) -> Any:
        """One above the other: side by side they push cost and times off a laptop's screen."""
        target = f"{row.provider}/{row.upstream_model}" if row.provider else ""
        return lines(_short(name) for name in (row.model, target) if name) or NOTHING

    @display(description="API key")
    def shown_key(self, row: RequestLog) -> SafeString:
        return _short(row.key_name)

    @display(description="Status")
    def shown_status(self, row: RequestLog) -> SafeString:
        if row.status is None:
            return badge("none", title="No status was sent.")
        return badge(row.status, _STATUS_KIND.get(row.status // 100, ""), row.error_code)

    @display(description="Answer")
    def shown_answer(self, row: RequestLog) -> SafeString:
        """The outcome too, where the status alone does not say it."""
        if row.outcome == RequestLog.Outcome.ANSWERED:
            return self.shown_status(row)
        parts = self.shown_status(row), self.shown_outcome(row)
        return format_html('<span class="whitespace-nowrap">{} {}</span>', *parts)

    @display(description="Outcome")
    def shown_outcome(self, row: RequestLog) -> SafeString:
        kind = _OUTCOME_KIND.get(row.outcome, "")  # type: ignore[call-overload]
        text = f"shadow: {row.outcome}" if row.shadow else row.outcome
        return badge(text.replace("_", " "), kind, row.get_outcome_display())

    @display(description="Content")
    def shown_content(self, row: RequestLog) -> Any:
        return content_link(row)

    @display(description="Sent as")
    def shown_form(self, row: RequestLog) -> str:
        return "a stream" if row.stream else "one piece"

    @display(description="Tokens counted by")
    def shown_counter(self, row: RequestLog) -> str:
        if row.input_tokens is None and row.output_tokens is None:
            return NOTHING
        return "an estimate, since the provider reported none" if row.tokens_estimated else "the provider"

    @display(description="Audio in / out, images in / out")
    def shown_media_tokens(self, row: RequestLog) -> str:
        counts = (
            row.audio_input_tokens,
            row.audio_output_tokens,
            row.image_input_tokens,
            row.image_output_tokens,
        )
        return " / ".join(_number(count) for count in counts) if any(counts) else NOTHING

    @display(description="Tokens in / out")
    def tokens(self, row: RequestLog) -> SafeString:
        about = "≈ " if row.tokens_estimated else ""
        return nowrap(f"{about}{_number(row.input_tokens)} / {_number(row.output_tokens)}")

    @display(description="Cost USD")
    def cost(self, row: RequestLog) -> str:
        if row.cost_usd is None:
            return "unknown" if row.attempts else NOTHING  # refused: nothing was bought
        whole, billionths = f"{row.cost_usd:.9f}".split(".")
        return f"{whole}.{billionths.rstrip('0'):0<2}"

    @display(description="Total ms")
    def total(self, row: RequestLog) -> str:
        return _milliseconds(row.total_ms)

    @display(description="Overhead ms")
    def overhead(self, row: RequestLog) -> str:
        return _milliseconds(row.overhead_ms)

    @display(description="TTFT ms")
    def ttft(self, row: RequestLog) -> str:
        return _milliseconds(row.ttft_ms)

    @display(description="Tags")
    def shown_tags(self, row: RequestLog) -> Any:
        return lines(row.tags) if row.tags else NOTHING

    @display(description="API key")
    def key_link(self, row: RequestLog) -> Any:
        key = ApiKey.objects.filter(pk=row.key_id).first() if row.key_id else None
        return change_link(key, row.key_name or key) if key else row.key_name or NOTHING

    @display(description="Target")
    def target_link(self, row: RequestLog) -> Any:
        if row.target_id is None:
            return NOTHING
        targets = RouteTarget.objects.select_related("route", "provider")
        target = targets.filter(pk=row.target_id).first()
        return change_link(target) if target else f"{row.target_id} (deleted)"

    @display(description="What became of each target")
    def trail(self, row: RequestLog) -> Any:
        return render_trail(row.attempt_trail) if row.attempt_trail else "none"


def _short(name: str) -> SafeString:
    """On one line, so that rows stay low; the tip has the whole name."""
    return (
        nowrap(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…", name)
        if name
        else nowrap(NOTHING)
    )


def _number(count: int | None) -> str:
    return NOTHING if count is None else f"{count:,}"


def _milliseconds(duration: float | None) -> str:
    return NOTHING if duration is None else f"{duration:,.1f}"


def render_trail(trail: Any) -> SafeString:
    """A table with a column for whatever the attempts recorded."""
    attempts = [entry if isinstance(entry, dict) else {"attempt": entry} for entry in trail]
    names = list(dict.fromkeys(name for attempt in attempts for name in attempt))
    rows = [
        [_place(number, attempt), *(_cell(attempt.get(name)) for name in names)]
        for number, attempt in enumerate(attempts, 1)
    ]
    headers = ["#", *(name.replace("_", " ") for name in names)]
    return render_to_string(
        "admin/monitoring/requestlog/trail.html", {"table": {"headers": headers, "rows": rows}}
    )


def _place(number: int, attempt: dict[str, Any]) -> str:
    """Targets that were left out come last and have no number."""
    left_out = str(attempt.get("result", "")).startswith(("skipped: ", "not needed"))
    return NOTHING if left_out else str(number)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    return f"{value:,.3f}" if isinstance(value, float) else str(value)
