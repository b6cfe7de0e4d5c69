"""/status and /status.json: for everybody where an admin says so, else for staff; others get a 404."""

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from django.db import Error
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import render

from monitoring.status.page import FRESH_SECONDS, Page, current_page
from proxy.doors.views import not_found

_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; frame-ancestors 'none'"
_LEVELS = ((99.9, "good"), (99.0, "fair"), (95.0, "poor"), (-1.0, "bad"))  # from so many percent on

View = Callable[[HttpRequest, Page], HttpResponseBase]


def _for_those_who_may(view: View) -> Callable[[HttpRequest], HttpResponseBase]:
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        try:
            page = current_page()
        except Error:
            return HttpResponse("Try again later.", status=503, content_type="text/plain")
        user: Any = request.user
        if not page.public and not (user.is_active and user.is_staff):
            return not_found(request)
        response = view(request, page)
        audience = "public" if page.public else "private"
        response["Cache-Control"] = f"{audience}, max-age={FRESH_SECONDS:.0f}"
        return response

    return guarded


@_for_those_who_may
def status_json(request: HttpRequest, page: Page) -> HttpResponseBase:
    response = JsonResponse(page.content)
    if page.public:
        response["Access-Control-Allow-Origin"] = "*"
    return response


@_for_those_who_may
def status(request: HttpRequest, page: Page) -> HttpResponseBase:
    content = page.content
    incidents = [_incident(entry) for entry in content["incidents"]]
    shown = {
        **content,
        "routes": [_route(route) for route in content["routes"]],
        "open": [entry for entry in incidents if entry["lasts"]],
        "past": [entry for entry in incidents if not entry["lasts"]],
        "public": page.public,
        "updated": _moment(content["updated_at"]),
    }
    response = render(request, "monitoring/status.html", shown)
    response["Content-Security-Policy"] = _CSP
    return response


def _route(route: dict[str, Any]) -> dict[str, Any]:
    bars = [
        {
            "level": _level(day["availability"]),
            "title": f"{day['date']}: {_percent(day['availability']) or 'no data'}",
        }
        for day in route["days"]
    ]
    return {**route, "bars": bars, "percent": _percent(route["availability_90d"])}


def _level(share: float | None) -> str:
    return "none" if share is None else next(name for least, name in _LEVELS if share >= least)


def _percent(share: float | None) -> str:
    """Rounded down, so that only what never failed shows 100 %."""
    return "" if share is None else f"{int(share * 100) / 100:g} %"


def _incident(entry: dict[str, Any]) -> dict[str, Any]:
    start, end = _moment(entry["started_at"]), entry["ended_at"] and _moment(entry["ended_at"])
    now = datetime.now(start.tzinfo)
    return {**entry, "start": start, "end": end, "lasts": end is None or end > now, "planned": start > now}


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
