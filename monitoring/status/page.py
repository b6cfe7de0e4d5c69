"""All that the status page says, made at most once in a few seconds however many ask for it."""

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.db import Error
from django.utils import timezone

from monitoring.health import availability
from monitoring.health.availability import History, Traffic
from monitoring.incidents.models import Incident
from proxy.breaker.state import Standing
from proxy.gateway import Gateway, running_gateway
from routing.models import GatewaySettings, MaintenanceWindow, ModelRoute
from routing.table import RouteEntry, RoutingTable, TargetEntry

logger = logging.getLogger(__name__)

FRESH_SECONDS = 15.0
PAST_SECONDS = 600.0  # days that are over change no more, but for what is shipped late
OPERATIONAL, DEGRADED, OUTAGE, MAINTENANCE = "operational", "degraded", "outage", "maintenance"
AHEAD = timedelta(days=14)  # planned maintenance is announced so long before
MOST_INCIDENTS = 100
_TEXTS = {
    OPERATIONAL: "All models are available",
    MAINTENANCE: "Maintenance is under way",
    DEGRADED: "Some models are available with restrictions",
    OUTAGE: "Some models are not available",
}


@dataclass(frozen=True, slots=True)
class Page:
    """`public`: whether everybody may read it. `content` is what /status.json says."""

    public: bool
    content: dict[str, Any] = field(repr=False)


class Pages:
    """The newest page, kept for a moment; one thread makes the next one while others get the last."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._page: Page | None = None
        self._made: tuple[float, int] = (0.0, -1)  # when (monotonic), and of which version of the table
        self._past: tuple[float, date, Traffic] | None = None

    def get(self, gateway: Gateway) -> Page:
        """Raises django.db.Error where the database is away and there is no page yet."""
        made = self._made
        if self._page is not None and self._is_fresh(gateway, made):
            return self._page
        with self._turn:
            if self._page is None or not self._is_fresh(gateway, self._made):
                self._make(gateway)
        assert self._page is not None
        return self._page

    def _is_fresh(self, gateway: Gateway, made: tuple[float, int]) -> bool:
        at, version = made
        return version == gateway.keeper.table.version and time.monotonic() - at < FRESH_SECONDS

    def _make(self, gateway: Gateway) -> None:
        table = gateway.keeper.table
        try:
            self._page = _page(gateway, table, self._traffic(timezone.now()))
        except Error:
            if self._page is None:
                raise
            logger.warning("the status page is not renewed: the database is away")
        self._made = time.monotonic(), table.version

    def _traffic(self, now: datetime) -> Traffic:
        *past, today = availability.days_until(now)
        if self._past is None or self._past[1] != today or time.monotonic() - self._past[0] > PAST_SECONDS:
            self._past = time.monotonic(), today, availability.traffic(past[0], past[-1])
        found = {route: dict(days) for route, days in self._past[2].items()}
        for route, days in availability.traffic(today, today).items():
            found.setdefault(route, {}).update(days)
        return found


pages = Pages()


def current_page() -> Page:
    return pages.get(running_gateway())


def _page(gateway: Gateway, table: RoutingTable, traffic: Traffic) -> Page:
    now = timezone.now()
    row = GatewaySettings.load()
    routes = _routes(gateway, table, traffic, now, names_providers=row.status_names_providers)
    overall = _overall([route["status"] for route in routes])
    content = {
        "status": overall,
        "text": _TEXTS[overall],
        "updated_at": _iso(now),
        "routes": routes,
        "incidents": _incidents(now, names_providers=row.status_names_providers),
    }
    return Page(row.status_public, content)


def _overall(found: list[str]) -> str:
    return next((status for status in (OUTAGE, DEGRADED, MAINTENANCE) if status in found), OPERATIONAL)


def _routes(
    gateway: Gateway, table: RoutingTable, traffic: Traffic, now: datetime, *, names_providers: bool
) -> list[dict[str, Any]]:
    entries = {found.route.name: found.route for found in table.routes.values()}
    entries |= {route.name: route for _, route in table.wildcards}
    histories = availability.histories((entry.id for entry in table.providers.values()), now)
    views = gateway.sharing.views()
    broken = {id for id, view in views.items() if Standing(view.standing) is Standing.BROKEN}
    return [
        _route(table, entries[name], broken, traffic.get(name, {}), histories, now, names_providers)
        for name in sorted(entries)
    ]


def _route(
    table: RoutingTable,
    route: RouteEntry,
    broken: set[int],
    counts: dict[date, tuple[int, int]],
    histories: dict[int, History],
    now: datetime,
    names_providers: bool,
) -> dict[str, Any]:
    providers = {target.provider.id: target.provider for target in route.targets}
    history = availability.together([histories.get(id, History()) for id in providers])
    days = [(day, availability.of_day(counts, history, day)) for day in availability.days_until(now)]
    known = [share for _, share in days if share is not None]
    found: dict[str, Any] = {
        "name": route.name,
        "status": status_of(table, route, broken),
        "availability_90d": round(sum(known) / len(known), 3) if known else None,
        "days": [
            {"date": day.isoformat(), "availability": None if share is None else round(share, 3)}
            for day, share in days
        ],
    }
    if names_providers:
        found["providers"] = [
            {"name": entry.slug, "status": _status([entry.unhealthy], resting=entry.maintenance)}
            for entry in providers.values()
        ]
    return found


def status_of(table: RoutingTable, route: RouteEntry, broken: set[int]) -> str:
    """`broken`: ids of targets whose circuit is open. A route that its fallbacks serve is degraded."""
    ill = [_is_ill(target, broken) for target in route.targets]
    status = _status(ill, resting=all(target.provider.maintenance for target in route.targets))
    if status in (OUTAGE, MAINTENANCE) and any(
        not all(_is_ill(target, broken) for target in other.targets)
        for id in route.fallbacks
        if (other := table.route_by_id(id)) is not None
    ):
        return DEGRADED
    return status


def _status(ill: list[bool], *, resting: bool) -> str:
    if not ill or all(ill):
        return MAINTENANCE if ill and resting else OUTAGE
    return DEGRADED if any(ill) else OPERATIONAL


def _is_ill(target: TargetEntry, broken: set[int]) -> bool:
    return target.provider.unhealthy or target.provider.maintenance or target.id in broken


def _incidents(now: datetime, *, names_providers: bool) -> list[dict[str, Any]]:
    """Newest first; what lasts before what is planned before what is over."""
    since = now - timedelta(days=availability.DAYS)
    found = [
        _entry(row, "incident", row.title, row.note, row.routes, names_providers)
        for row in _lasting(Incident.objects.filter(shown=True, started_at__lte=now), "ended_at", since)
    ]
    found += [
        _entry(row, "maintenance", _maintenance_title(row, now), "", _routes_of(row), names_providers)
        for row in _lasting(MaintenanceWindow.objects.filter(starts_at__lte=now + AHEAD), "ends_at", since)
    ]
    found.sort(key=lambda entry: entry["started_at"], reverse=True)
    found.sort(key=lambda entry: _turn(entry, _iso(now)))
    return found[:MOST_INCIDENTS]


def _turn(entry: dict[str, Any], now: str) -> int:
    if entry["started_at"] > now:
        return 1
    return 2 if entry["ended_at"] is not None and entry["ended_at"] <= now else 0


def _lasting(rows: Any, end: str, since: datetime) -> Any:
    kept = rows.filter(**{f"{end}__gt": since}) | rows.filter(**{end: None})
    return kept.select_related("provider")[:MOST_INCIDENTS]


def _entry(
    row: Any, kind: str, title: str, note: str, routes: list[str], names_providers: bool
) -> dict[str, Any]:
    start, end = (row.starts_at, row.ends_at) if kind == "maintenance" else (row.started_at, row.ended_at)
    found = {
        "kind": kind,
        "title": title,
        "note": note,
        "routes": routes,
        "started_at": _iso(start),
        "ended_at": _iso(end) if end is not None else None,
    }
    if names_providers and row.provider is not None:
        found["provider"] = row.provider.slug
    return found


def _maintenance_title(row: MaintenanceWindow, now: datetime) -> str:
    """The window's own reason is for admins."""
    return {"planned": "Planned maintenance", "running": "Maintenance under way"}.get(
        row.state(now), "Maintenance"
    )


def _routes_of(row: MaintenanceWindow) -> list[str]:
    served = ModelRoute.objects.filter(enabled=True, targets__provider=row.provider_id, targets__enabled=True)
    return sorted(set(served.filter(targets__shadow_percent=None).values_list("name", flat=True)))


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
