"""The charts of a provider's history page: latency of the last 24 hours, uptime of each of 90 days."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from monitoring.health.availability import History, by_checks, days_until, histories
from monitoring.health.models import HealthCheck
from routing.models import Provider

WIDTH, HEIGHT, LEFT = 960, 180, 56
STEP = timedelta(minutes=10)
HOURS = 24
MOST_CHECKS = 20_000  # one in 5 s for a day
_RED = "#dc2626"


@dataclass(slots=True)
class _Step:
    """The checks of ten minutes; times are of good ones, as a time-out is no latency."""

    good: int = 0
    failed: int = 0
    total_ms: float = 0.0
    highest_ms: float = 0.0


def latency_chart(provider: Provider, now: datetime) -> SafeString:
    """Mean and highest latency in steps of ten minutes, marks below where checks failed."""
    steps = _steps(provider, now)
    if not steps:
        return format_html("<p>{}</p>", "No check in the last 24 hours.")
    highest = max(max(step.highest_ms for step in steps.values()), 1.0)
    good = [(place, step) for place, step in steps.items() if step.good]
    means = [(_x(place), _y(step.total_ms / step.good, highest)) for place, step in good]
    peaks = [(_x(place), _y(step.highest_ms, highest)) for place, step in good]
    failed = [(_x(place), step.failed) for place, step in steps.items() if step.failed]
    return format_html(
        '<svg class="w-full" viewBox="0 0 {} {}" role="img" aria-label="Latency of checks">'
        '{}{}<polyline fill="none" stroke="currentColor" stroke-opacity="0.35" points="{}"/>'
        '<polyline fill="none" style="stroke: var(--color-primary-600)" stroke-width="2" points="{}"/>'
        "{}</svg>",
        WIDTH,
        HEIGHT,
        _scale(highest),
        _hours(now),
        _points(peaks),
        _points(means),
        _marks(failed),
    )


def _steps(provider: Provider, now: datetime) -> dict[int, _Step]:
    """By place, 0 is 24 hours ago; oldest first."""
    since = now - timedelta(hours=HOURS)
    rows = HealthCheck.objects.filter(provider=provider, at__gt=since, at__lte=now).order_by("-at")
    steps: dict[int, _Step] = {}
    for at, ok, ms in rows.values_list("at", "ok", "latency_ms")[:MOST_CHECKS]:
        step = steps.setdefault(int((at - since) / STEP), _Step())
        step.failed += not ok
        if ok:
            step.good += 1
            step.total_ms += ms
            step.highest_ms = max(step.highest_ms, ms)
    return dict(sorted(steps.items()))


def _x(place: float) -> float:
    return LEFT + (WIDTH - LEFT - 4) * place / (timedelta(hours=HOURS) / STEP)


def _y(ms: float, highest: float) -> float:
    return 12 + (HEIGHT - 48) * (1 - ms / highest)


def _points(points: list[tuple[float, float]]) -> str:
    if len(points) == 1:  # a line of one point is invisible
        points = [points[0], (points[0][0] + 4, points[0][1])]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _scale(highest: float) -> SafeString:
    line = (
        '<line x1="{}" x2="{}" y1="{}" y2="{}" stroke="currentColor" stroke-opacity="0.15"/>'
        '<text x="{}" y="{}" text-anchor="end" font-size="11" fill="currentColor">{}</text>'
    )
    rows = [(highest * part, _y(highest * part, highest)) for part in (0.0, 0.5, 1.0)]
    return format_html_join(
        "", line, ((LEFT, WIDTH, y, y, LEFT - 6, y + 4, f"{ms:,.0f} ms") for ms, y in rows)
    )


def _hours(now: datetime) -> SafeString:
    text = '<text x="{}" y="{}" text-anchor="middle" font-size="11" fill="currentColor">{}</text>'
    last = now.replace(minute=0, second=0, microsecond=0)
    moments = [last - timedelta(hours=ago) for ago in range(HOURS - 1, -1, -1)]
    shown = [moment for moment in moments if moment.hour % 3 == 0]
    return format_html_join(
        "",
        text,
        ((f"{_x(_place(moment, now)):.1f}", HEIGHT - 4, f"{moment:%H:%M}") for moment in shown),
    )


def _place(moment: datetime, now: datetime) -> float:
    return (moment - now + timedelta(hours=HOURS)) / STEP


def _marks(failed: list[tuple[float, int]]) -> SafeString:
    mark = '<rect x="{}" y="{}" width="5" height="8" fill="{}"><title>{}</title></rect>'
    return format_html_join(
        "", mark, ((f"{x:.1f}", HEIGHT - 32, _RED, f"{count} failed checks") for x, count in failed)
    )


def daily_uptime(provider: Provider, now: datetime) -> SafeString:
    """A bar for each of 90 days."""
    history = histories([provider.pk], now).get(provider.pk, History())
    shares = [(day, by_checks(history, day)) for day in days_until(now)]
    bar = '<rect x="{}" y="0" width="8" height="28" rx="2" fill="{}"><title>{}</title></rect>'
    bars = format_html_join(
        "",
        bar,
        (
            (number * 10.6, _colour(share), f"{day}: {_text(share)}")
            for number, (day, share) in enumerate(shares)
        ),
    )
    return format_html(
        '<svg class="w-full" viewBox="0 0 {} 28" role="img" aria-label="Uptime of each day">{}</svg>',
        WIDTH,
        bars,
    )


def _text(share: float | None) -> str:
    return "nothing is known" if share is None else f"{int(share * 100) / 100:g} % up"


def _colour(share: float | None) -> str:
    if share is None:
        return "rgba(127,127,127,.25)"
    return "#16a34a" if share >= 99.9 else "#84cc16" if share >= 99 else "#f59e0b" if share >= 95 else _RED
