"""The limits and budgets of rows, as the table has them."""

from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings

from routing import prices
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget, Team
from routing.models.limits import BudgetPeriod
from routing.table import Budget, LimitOwner, Limits


def limit_owners_of(row: Any) -> tuple[LimitOwner, ...]:
    """The limits and budget of a key, team, route, target or provider; empty where it has none."""
    kind, name = _OWNERS[type(row)], getattr(row, "slug", None) or str(row)
    team = row.team if isinstance(row, ApiKey) else row
    time_zone = getattr(team, "time_zone", settings.TIME_ZONE)
    limits = Limits(rpm=row.rpm, tpm=row.tpm, parallel=row.parallel)
    budget = None
    if row.budget_usd is not None:
        budget = Budget(
            limit_nano=int(row.budget_usd * prices.NANO),
            period=BudgetPeriod(row.budget_period).value,
            time_zone=ZoneInfo(time_zone).key,
        )
    return (LimitOwner(kind, row.pk, name, limits, budget),) if limits or budget else ()


_OWNERS: dict[type, str] = {
    ApiKey: "key",
    Team: "team",
    ModelRoute: "route",
    RouteTarget: "target",
    Provider: "provider",
}
