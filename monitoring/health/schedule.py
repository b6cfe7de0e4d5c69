"""Who is checked when. A claim is one conditional update, so that however many try, one has it."""

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet

from monitoring.health.models import CheckSchedule
from routing.models import Provider

JITTER = 0.1  # of the interval, to either side: checks that began together drift apart
AT_ONCE = 10  # so many new providers are checked at once; more are spread over their interval

_dice = random.Random()
os.register_at_fork(after_in_child=_dice.seed)


@dataclass(frozen=True, slots=True)
class Claim:
    provider: Provider
    at: datetime


def watched() -> list[Provider]:
    return with_health(Provider.objects.enabled().filter(health_check_enabled=True))


def with_health(providers: QuerySet[Provider]) -> list[Provider]:
    """With all that a check reads, as it may not ask the database on its event loop."""
    return list(providers.select_related("health"))


def claim_due(now: datetime, horizon: timedelta) -> list[Claim]:
    """The checks that become due until now + horizon, and that nobody else has claimed.

    The interval is read here each time, so that an edit counts from the next tick on.
    """
    providers = watched()
    known = CheckSchedule.objects.in_bulk([provider.pk for provider in providers])
    missing = [provider for provider in providers if provider.pk not in known]
    if missing:
        known |= _begin(missing, now)
    claims = (_claim(provider, known.get(provider.pk), now, horizon) for provider in providers)
    return [claim for claim in claims if claim is not None]


def _begin(providers: list[Provider], now: datetime) -> dict[int, CheckSchedule]:
    spread = len(providers) > AT_ONCE
    rows = [
        CheckSchedule(provider=provider, checked_at=now - _first_delay(provider, spread))
        for provider in providers
    ]
    CheckSchedule.objects.bulk_create(rows, ignore_conflicts=True)
    return CheckSchedule.objects.in_bulk([provider.pk for provider in providers])


def _first_delay(provider: Provider, spread: bool) -> timedelta:
    share = _dice.random() if spread else 1.0
    return timedelta(seconds=provider.health_interval * share)


def _claim(
    provider: Provider, schedule: CheckSchedule | None, now: datetime, horizon: timedelta
) -> Claim | None:
    if schedule is None:  # deleted meanwhile
        return None
    due = schedule.checked_at + timedelta(seconds=provider.health_interval * schedule.factor)
    if due > now + horizon:
        return None
    at = max(due, now)
    unclaimed = CheckSchedule.objects.filter(pk=schedule.pk, checked_at=schedule.checked_at)
    factor = _dice.uniform(1 - JITTER, 1 + JITTER)
    return Claim(provider, at) if unclaimed.update(checked_at=at, factor=factor) else None


def postpone(providers: Iterable[Provider], now: datetime) -> None:
    """They are checked now: the next check is due an interval later."""
    ids = [provider.pk for provider in providers]
    CheckSchedule.objects.filter(pk__in=ids).update(checked_at=now)
