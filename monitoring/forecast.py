"""What each team will have spent when its month ends, if it goes on as in the last seven days."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from django.db.models import Sum

from monitoring.models import NANO, UsageHour
from routing.models import Team
from routing.periods import bounds

LOOK_BACK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Forecast:
    """In USD. The month is the calendar's, by the team's own clock."""

    team: str
    spent: Decimal
    expected: Decimal
    budget: Decimal | None  # None: the team has no budget for the month

    @property
    def exceeds(self) -> bool:
        return self.budget is not None and self.expected > self.budget


def forecasts(now: float | None = None) -> Iterator[Forecast]:
    """`now` in Unix seconds."""
    moment = time.time() if now is None else now
    for team in Team.objects.order_by("slug"):
        start, end = (datetime.fromtimestamp(at, UTC) for at in bounds("month", team.time_zone, moment))
        today = datetime.fromtimestamp(moment, UTC)
        since = max(today - LOOK_BACK, team.created_at)
        days = max((today - since) / timedelta(days=1), 1.0)
        left = Decimal((end - today) / timedelta(days=1))
        spent = _cost(team.slug, start, end)
        expected = spent + _cost(team.slug, since, today + timedelta(hours=1)) / Decimal(days) * left
        monthly = team.budget_period == "month"
        yield Forecast(team.slug, spent, round(expected, 9), team.budget_usd if monthly else None)


def _cost(team: str, start: datetime, end: datetime) -> Decimal:
    rows = UsageHour.objects.filter(team=team, shadow=False, hour__gte=start, hour__lt=end)
    return Decimal(rows.aggregate(total=Sum("cost_nano_usd"))["total"] or 0) / NANO
