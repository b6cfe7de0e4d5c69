"""Where a budget meets a target whose price is unknown: such a call is refused, 503 price_unknown."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.db.models import Model, Q, QuerySet

from routing.models import ApiKey, ModelRoute, Provider, RouteTarget, Team
from routing.prices import price_of
from routing.unreadable import Faults

MOST_NAMED = 3  # of those with a budget
MOST_TOLD = 5  # targets
REMEDY = "Give the target an input and an output price, or let nobody with a budget use the route."


@dataclass(frozen=True, slots=True)
class Clash:
    target: RouteTarget
    whose: tuple[str, ...]  # budgets; at least one

    def __str__(self) -> str:
        named = ", ".join(self.whose[:MOST_NAMED])
        more = len(self.whose) - MOST_NAMED
        budgets = f"{named} and {more:,} more" if more > 0 else named
        target = f"{self.target.provider.slug}/{self.target.upstream_model}"
        return (
            f"Route {self.target.route.name}: the price of its target {target} is unknown. Calls that a "
            f"budget counts pass it over, and are refused (503 price_unknown) where no other target is left. "
            f"Budgets that count them: {budgets}."
        )


def told(row: Model | None = None) -> list[str]:
    """What the row, once saved, makes refused; without one: what all rows do."""
    found = list(clashes(row))
    more = len(found) - MOST_TOLD
    texts = [f"{clash} {REMEDY}" for clash in found[:MOST_TOLD]]
    return [*texts, f"So are those to {more:,} more targets."] if more > 0 else texts


def clashes(row: Model | None = None) -> Iterator[Clash]:
    faults = Faults()
    keys = faults.read(_keys(row).prefetch_related("allowed_routes"))
    if isinstance(row, ApiKey | Team) and not keys:
        return
    rows = _targets(row).filter(shadow_percent=None).select_related("route", "provider")
    targets = [target for target in faults.read(rows) if _is_unpriced(target, faults)]
    for target in targets:
        if whose := (*_own(target), *_of_callers(target.route, keys)):
            yield Clash(target, whose)


def _targets(row: Model | None) -> QuerySet[RouteTarget]:
    serving = RouteTarget.objects.serving().order_by("route__name", "priority", "pk")
    if isinstance(row, ModelRoute):
        return serving.filter(route=row)
    if isinstance(row, Provider):
        return serving.filter(provider=row)
    return serving.filter(pk=row.pk) if isinstance(row, RouteTarget) else serving


def _is_unpriced(target: RouteTarget, faults: Faults) -> bool:
    priced = faults.made(target, lambda one: price_of(one) is not None)
    return priced is False  # what can't be read is out, and told elsewhere


def _keys(row: Model | None) -> QuerySet[ApiKey]:
    """Those with a budget."""
    rows = ApiKey.objects.filter(enabled=True).select_related("team").order_by("name")
    rows = rows.filter(Q(team=None) | Q(team__enabled=True))
    rows = rows.filter(Q(budget_usd__isnull=False) | Q(team__budget_usd__isnull=False))
    if isinstance(row, ApiKey):
        return rows.filter(pk=row.pk)
    return rows.filter(team=row) if isinstance(row, Team) else rows


def _own(target: RouteTarget) -> tuple[str, ...]:
    """Budgets that count every call to the target."""
    owners = (("the target", target), ("the route", target.route), ("the provider", target.provider))
    return tuple(name for name, row in owners if row.budget_usd is not None)


def _of_callers(route: ModelRoute, keys: Iterable[ApiKey]) -> tuple[str, ...]:
    found: dict[str, None] = {}  # each team once
    for key in keys:
        if key.restricted and route not in key.allowed_routes.all():
            continue
        if key.budget_usd is not None:
            found[f"API key {key.name}"] = None
        if key.team is not None and key.team.budget_usd is not None:
            found[f"team {key.team.slug}"] = None
    return tuple(found)
