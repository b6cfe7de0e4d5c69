"""Keeps BudgetPeriod: what each budget has spent in its period, and in those before."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max

from monitoring.budgets.models import ALWAYS, BudgetPeriod
from monitoring.budgets.spending import shipped
from routing.limit_owners import limit_owners_of
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget, Team
from routing.periods import bounds
from routing.table import LimitOwner
from routing.unreadable import Faults

FRESH = timedelta(seconds=45)  # who asks sooner gets what there is
SETTLED = timedelta(minutes=10)  # after a period's end: until then calls of it may still be running
RECOUNTED = timedelta(days=7)  # after it: what is shipped late is still added to a closed period
MOST_MISSED = 400  # periods of one budget that are closed at once after a long time without anybody looking


def refresh(now: datetime) -> None:
    newest = BudgetPeriod.objects.filter(closed_at=None).aggregate(at=Max("updated_at"))["at"]
    if newest is None or not newest > now - FRESH:
        update(now)


def update(now: datetime) -> None:
    """Safe to run at the same time twice: rows are found by owner, period and beginning."""
    running = set()
    for owner in budget_owners():
        running.add(_update_running(owner, now))
        _close_ended(owner, now)
    # Of budgets that are removed, or have another period now.
    gone = BudgetPeriod.objects.filter(closed_at=None).exclude(pk__in=running)
    gone.exclude(ends_at__lte=now).update(closed_at=now)
    gone.filter(ends_at__lte=now - SETTLED).update(closed_at=now)


def budget_owners() -> Iterator[LimitOwner]:
    for model in (ApiKey, Team, ModelRoute, RouteTarget, Provider):
        rows: Any = model.objects.filter(budget_usd__isnull=False)
        if model is ApiKey:
            rows = rows.select_related("team")
        elif model is RouteTarget:
            rows = rows.select_related("route", "provider")
        for row in rows:
            yield from Faults().made(row, limit_owners_of) or ()  # the table names those that it can't read


def _update_running(owner: LimitOwner, now: datetime) -> int:
    start, end = _bounds(owner, now)
    row, _ = BudgetPeriod.objects.update_or_create(
        kind=owner.kind,
        owner_id=owner.id,
        period=_period(owner),
        starts_at=start,
        defaults={"ends_at": end, "closed_at": None, **_facts(owner, start, end, now)},
    )
    pk: int = row.pk
    return pk


def _close_ended(owner: LimitOwner, now: datetime) -> None:
    """The one that ended last, and those that nobody saw."""
    mine = BudgetPeriod.objects.filter(kind=owner.kind, owner_id=owner.id, period=_period(owner))
    current, _ = _bounds(owner, now)
    before = mine.filter(starts_at__lt=current).order_by("-starts_at").first()
    if before is None or before.ends_at is None:
        return
    for _ in range(MOST_MISSED):
        assert before.ends_at is not None
        if before.closed_at is None and now >= before.ends_at + SETTLED:
            facts = _facts(owner, before.starts_at, before.ends_at, now)
            mine.filter(pk=before.pk).update(closed_at=now, **facts)
        start, end = _bounds(owner, before.ends_at)
        if start >= current:
            return
        facts = _facts(owner, start, end, now)
        before, _ = mine.get_or_create(
            starts_at=start, defaults={**_key(owner), "ends_at": end, "closed_at": None, **facts}
        )


def recount_closed(now: datetime) -> None:
    """What late rows have changed in periods that ended lately."""
    limit_owners = {(owner.kind, owner.id, _period(owner)): owner for owner in budget_owners()}
    for row in BudgetPeriod.objects.filter(
        closed_at__isnull=False, ends_at__gt=now - RECOUNTED, ends_at__lt=now
    ):
        owner = limit_owners.get((row.kind, row.owner_id, row.period))
        if owner is not None and row.ends_at is not None:
            spent = shipped(owner, row.starts_at.timestamp(), row.ends_at.timestamp())
            if spent != row.spent_nano:
                percent = _percent(spent, row.limit_nano)
                BudgetPeriod.objects.filter(pk=row.pk).update(spent_nano=spent, used_percent=percent)


def _key(owner: LimitOwner) -> dict[str, Any]:
    return {"kind": owner.kind, "owner_id": owner.id, "period": _period(owner)}


def _period(owner: LimitOwner) -> str:
    assert owner.budget is not None
    return owner.budget.period


def _bounds(owner: LimitOwner, at: datetime) -> tuple[datetime, datetime | None]:
    assert owner.budget is not None
    if owner.budget.period == "total":
        return ALWAYS, None
    start, end = bounds(owner.budget.period, owner.budget.time_zone, at.timestamp())
    return datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC)


def _facts(owner: LimitOwner, start: datetime, end: datetime | None, now: datetime) -> dict[str, Any]:
    assert owner.budget is not None
    began = None if end is None else start.timestamp()
    spent = shipped(owner, began, None if end is None else end.timestamp())
    limit = owner.budget.limit_nano
    return {
        "name": owner.name,
        "limit_nano": limit,
        "spent_nano": spent,
        "used_percent": _percent(spent, limit),
        "updated_at": now,
    }


def _percent(spent: int, limit: int) -> float:
    return round(100 * spent / limit, 2) if limit else 100.0
