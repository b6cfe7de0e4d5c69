"""What each team will have spent when its month ends, if it goes on as in the last seven days."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db.models import Case, DateTimeField, OuterRef, Q, QuerySet, Subquery, Sum, Value, When

from monitoring.request_log.models import NANO
from monitoring.usage.models import UsageHour
from routing.models import Team
from routing.models.limits import is_time_zone
from routing.periods import bounds
from routing.unreadable import Faults

LOOK_BACK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Forecast:
    """In USD. The month is the calendar's, by the team's own clock."""

    team: str
    spent: Decimal
    expected: Decimal
    budget: Decimal | None  # None: the team has no budget for the month
    wrong_clock: str = ""  # the team's time zone, where it is none: its month is that of UTC

    @property
    def exceeds(self) -> bool:
        return self.budget is not None and self.expected > self.budget


def forecasts(now: float | None = None) -> Iterator[Forecast]:
    """`now` in Unix seconds. Two queries, however many teams there are; without those that can't be read."""
    moment = time.time() if now is None else now
    today = datetime.fromtimestamp(moment, UTC)
    zones = set(Team.objects.values_list("time_zone", flat=True))
    months = {zone: _month(zone, moment) for zone in zones}
    for team in Faults().read(_with_costs(months, today)):
        _, end = months[team.time_zone]
        since = max(today - LOOK_BACK, team.created_at)
        days = max((today - since) / timedelta(days=1), 1.0)
        left = Decimal((end - today) / timedelta(days=1))
        spent, lately = (Decimal(nano or 0) / NANO for nano in (team.of_month, team.lately))
        expected = spent + lately / Decimal(days) * left
        monthly = team.budget_period == "month"
        yield Forecast(
            team.slug,
            spent,
            round(expected, 9),
            team.budget_usd if monthly else None,
            "" if is_time_zone(team.time_zone) else team.time_zone or "none",
        )


def _month(time_zone: str, moment: float) -> tuple[datetime, datetime]:
    start, end = bounds("month", time_zone if is_time_zone(time_zone) else "UTC", moment)
    return datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)


def _with_costs(months: dict[str, tuple[datetime, datetime]], today: datetime) -> QuerySet[Any]:
    """Teams with nano-USD of their month, and since LOOK_BACK or their own beginning."""
    begins = Case(
        *(When(time_zone=zone, then=Value(start)) for zone, (start, _) in months.items()),
        default=Value(today),
        output_field=DateTimeField(),
    )
    ends = Case(
        *(When(time_zone=zone, then=Value(end)) for zone, (_, end) in months.items()),
        default=Value(today),
        output_field=DateTimeField(),
    )
    of_month = _cost(Q(hour__gte=OuterRef("begins"), hour__lt=OuterRef("ends")))
    recent = Q(hour__gte=today - LOOK_BACK, hour__lt=today + timedelta(hours=1))
    lately = _cost(recent & Q(hour__gte=OuterRef("created_at")))
    teams = Team.objects.annotate(begins=begins, ends=ends).annotate(of_month=of_month, lately=lately)
    return teams.order_by("slug")


def _cost(hours: Q) -> Subquery:
    rows = UsageHour.objects.filter(hours, team=OuterRef("slug"), shadow=False)
    return Subquery(rows.order_by().values("team").annotate(total=Sum("cost_nano_usd")).values("total"))
