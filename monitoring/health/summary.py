"""What the admin shows of providers' health: uptime, latency, transitions."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db.models import Avg, Count, Q
from django.db.models.functions import TruncHour
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from monitoring.health.history import uptimes
from monitoring.health.models import HealthCheck
from proxy.breaker.state import Standing
from proxy.explain.live import target_views
from routing.admin.base import NOTHING
from routing.models import Provider, RouteTarget

HOURS = 24
WINDOWS = {"24 h": 1, "7 d": 7, "30 d": 30}  # name -> days
_LEFT_OUT = {Standing.BROKEN.value: "danger", Standing.COOLING.value: "warning"}
WIDTH, HEIGHT = 120, 24  # of the picture, in pixels


def load(providers: Iterable[Provider], now: datetime) -> dict[int, "Health"]:
    """Of all these, in as many queries as for one."""
    ids = [provider.pk for provider in providers]
    percent = uptimes(ids, now, WINDOWS.values())
    hours = _hours(ids, now)
    return {
        pk: Health(
            {name: percent.get(pk, {}).get(days) for name, days in WINDOWS.items()}, hours.get(pk, []), now
        )
        for pk in ids
    }


def _hours(ids: list[int], now: datetime) -> dict[int, list[tuple[datetime, float, int]]]:
    """(hour, mean milliseconds, failed checks), oldest first."""
    rows = HealthCheck.objects.filter(provider__in=ids, at__gt=now - timedelta(hours=HOURS))
    by_hour = rows.annotate(hour=TruncHour("at")).order_by("hour").values("provider", "hour")
    means = by_hour.annotate(mean=Avg("latency_ms"), failed=Count("pk", filter=Q(ok=False)))
    found: dict[int, list[tuple[datetime, float, int]]] = {}
    for provider, hour, mean, failed in means.values_list("provider", "hour", "mean", "failed"):
        found.setdefault(provider, []).append((hour, mean, failed))
    return found


def open_circuits(providers: Iterable[Provider]) -> dict[int, list[tuple[str, str, str]]]:
    """By provider: (text, kind of badge, why) of each target that is left out now."""
    left_out = {id: view for id, view in target_views().items() if view.standing in _LEFT_OUT}
    targets = RouteTarget.objects.filter(
        pk__in=left_out, provider__in=[provider.pk for provider in providers]
    )
    found: dict[int, list[tuple[str, str, str]]] = {}
    for pk, provider, model in targets.values_list("pk", "provider", "upstream_model"):
        view = left_out[pk]
        text = f"{model}: {view.standing}"
        found.setdefault(provider, []).append((text, _LEFT_OUT[view.standing], view.why))
    return found


class Health:
    """Of one provider."""

    def __init__(
        self,
        uptime: dict[str, float | None],
        hours: list[tuple[datetime, float, int]],
        now: datetime,
    ) -> None:
        self.uptime = uptime
        self._hours = hours
        self._now = now

    def uptime_texts(self) -> list[str]:
        return [f"{_percent(found)} {name}" for name, found in self.uptime.items()]

    def sparkline(self) -> SafeString:
        """Mean latency of each hour as a line, red dots where checks failed; blank without any."""
        if not self._hours:
            return format_html("{}", NOTHING)
        highest = max(mean for _, mean, _ in self._hours)
        points = [(self._x(hour), _y(mean, highest), failed) for hour, mean, failed in self._hours]
        return format_html(
            '<svg width="{}" height="{}" viewBox="0 0 {} {}" role="img"><title>{}</title>'
            '<polyline fill="none" stroke="currentColor" stroke-width="1.5" points="{}"/>{}</svg>',
            WIDTH,
            HEIGHT,
            WIDTH,
            HEIGHT,
            self._title(highest),
            " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points),
            _dots(points),
        )

    def _x(self, hour: datetime) -> float:
        age = (self._now - hour).total_seconds() / 3600
        return 2 + (WIDTH - 4) * (1 - min(age, HOURS + 1) / (HOURS + 1))

    def _title(self, highest: float) -> str:
        failed = sum(count for _, _, count in self._hours)
        return (
            f"Mean latency of each hour, the last {HOURS} h: up to {highest:,.0f} ms, {failed} failed checks"
        )


def _y(mean: float, highest: float) -> float:
    return HEIGHT - 2 - (HEIGHT - 4) * (mean / highest if highest else 0.0)


def _dots(points: list[tuple[float, float, int]]) -> SafeString:
    """Also for the first point: a line of one point is invisible."""
    shown = [(x, y, "#dc2626" if failed else "currentColor") for x, y, failed in points if failed]
    if len(points) == 1 and not shown:
        shown = [(points[0][0], points[0][1], "currentColor")]
    dot = '<circle cx="{}" cy="{}" r="2" fill="{}"/>'
    return format_html_join("", dot, ((f"{x:.1f}", f"{y:.1f}", colour) for x, y, colour in shown))


def _percent(value: float | None) -> str:
    """Rounded down, so that only what was never down shows 100 %."""
    return NOTHING if value is None else f"{int(value * 100) / 100:g} %"
