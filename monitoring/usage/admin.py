"""The admin's usage page: a chart, a table whose lines lead to the request log, and each team's month."""

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from monitoring.usage import report as usage
from monitoring.usage.forecast import Forecast, forecasts
from monitoring.usage.rollups import first_stale
from routing.admin.base import NOTHING, badge, link

MOST_LINES = 200
MOST_BARS = 40
BAR_HEIGHT, LABEL_WIDTH, WIDTH = 22, 220, 900
_LOG_FILTER = {"team": "team", "route": "route", "provider": "provider", "outcome": "outcome__exact"}
"""By what the request log can be filtered as well."""


class UsageForm(forms.Form):
    group_by = forms.ChoiceField(
        choices=[(name, name) for name in usage.GROUPS], widget=UnfoldAdminSelectWidget(), required=False
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name, label in (("from", "From (UTC)"), ("to", "To, included")):
            widget = UnfoldAdminTextInputWidget({"type": "date"})
            self.fields[name] = forms.CharField(label=label, required=False, widget=widget)
        for name in usage.FILTERS:
            self.fields[name] = forms.CharField(required=False, widget=UnfoldAdminTextInputWidget())


def usage_view(page: ModelAdmin, request: HttpRequest) -> HttpResponse:
    if not page.has_view_permission(request):
        raise PermissionDenied
    given = {"group_by": "team", **request.GET.dict()}
    today = timezone.now().date()
    problem = ""
    try:
        asked = usage.question(given, today=today)
    except usage.QuestionInvalid as error:
        asked, problem = usage.question({"group_by": "team"}, today=today), str(error)
    lines = usage.report(asked)
    shown = {"from": asked.first.isoformat(), "to": asked.last.isoformat(), "group_by": asked.group_by}
    context = {
        **page.admin_site.each_context(request),
        "title": "Usage and cost",
        "opts": page.opts,
        "form": UsageForm(initial=given | shown),
        "problem": problem,
        "bars": bars(lines),
        "table": _table(asked, lines),
        "left_out": max(len(lines) - MOST_LINES, 0),
        "teams": _teams(list(forecasts())),
        "stale": first_stale(),
        "unpriced": sum(line.unpriced for line in lines),
    }
    return TemplateResponse(request, "admin/monitoring/usage.html", context)


def bars(lines: list[usage.Line]) -> dict[str, Any]:
    """A bar of each line's cost, for an SVG of `width` by `height`."""
    shown = lines[:MOST_BARS]
    dearest = max((line.cost_nano_usd for line in shown), default=0) or 1
    room = WIDTH - LABEL_WIDTH - 140
    found = [
        {
            "name": (line.group or NOTHING)[:30],
            "y": number * BAR_HEIGHT,
            "text_y": number * BAR_HEIGHT + 15,
            "width": max(line.cost_nano_usd * room // dearest, 1),
            "cost_x": LABEL_WIDTH + max(line.cost_nano_usd * room // dearest, 1) + 8,
            "cost": _usd(line),
        }
        for number, line in enumerate(shown)
    ]
    return {"bars": found, "width": WIDTH, "height": BAR_HEIGHT * len(found), "label": LABEL_WIDTH}


def _table(asked: usage.Question, lines: list[usage.Line]) -> dict[str, Any]:
    headers = [
        asked.group_by.title(),
        "Cost USD",
        "Requests",
        "Failed",
        "Tokens in",
        "Tokens out",
        "Cached",
        "p50 / p95 ms",
        "TTFT p50 / p95 ms",
    ]
    rows = [_row(_drill_down(asked, line), line) for line in lines[:MOST_LINES]]
    return {"headers": headers, "rows": [*rows, _row("Total", usage.total(asked))] if rows else []}


def _row(name: Any, line: usage.Line) -> list[Any]:
    shown = line.shown()
    return [
        name,
        _cost(line),
        f"{line.requests:,}",
        _percent(shown["error_rate"]),
        f"{line.input_tokens:,}",
        f"{line.output_tokens:,}",
        _percent(shown["cached_share"]),
        f"{_ms(shown['total_ms_p50'])} / {_ms(shown['total_ms_p95'])}",
        f"{_ms(shown['ttft_ms_p50'])} / {_ms(shown['ttft_ms_p95'])}",
    ]


def _drill_down(asked: usage.Question, line: usage.Line) -> Any:
    """A link to the requests behind a line, where the log has a filter for it."""
    name = line.group or NOTHING
    where = {_LOG_FILTER[n]: value for n, value in asked.where.items() if n in _LOG_FILTER}
    if asked.group_by in _LOG_FILTER and line.group:
        where[_LOG_FILTER[asked.group_by]] = line.group
    elif asked.group_by != "day" or len(where) < len(asked.where):
        return name
    first, last = (line.group, line.group) if asked.group_by == "day" else (str(asked.first), str(asked.last))
    where |= {"received_at_from": first, "received_at_to": last}
    return link(f"{reverse('admin:monitoring_requestlog_changelist')}?{urlencode(where)}", name)


def _teams(found: list[Forecast]) -> dict[str, Any]:
    headers = ["Team", "Spent this month, USD", "Expected at its end", "Budget", ""]
    rows = [
        [
            one.team,
            f"{one.spent:,.4f}",
            f"{one.expected:,.4f}",
            NOTHING if one.budget is None else f"{one.budget:,.2f}",
            _remark(one),
        ]
        for one in found
    ]
    return {"headers": headers, "rows": rows}


def _remark(one: Forecast) -> SafeString | str:
    over = badge("over budget", "danger") if one.exceeds else ""
    if not one.wrong_clock:
        return over
    help_text = (
        f"{one.wrong_clock!r} is no time zone: give the team another one. Its month is UTC's until then."
    )
    return format_html("{} {}", badge("unknown time zone", "warning", help_text), over)


def _cost(line: usage.Line) -> SafeString | str:
    if not line.unpriced:
        return _usd(line)
    return format_html("{} {}", _usd(line), badge(f"{line.unpriced:,} unknown", "warning", "Not in the sum."))


def _usd(line: usage.Line) -> str:
    return f"{line.cost_usd:,.4f}"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f} %"


def _ms(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
