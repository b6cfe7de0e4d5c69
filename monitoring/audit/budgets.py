"""Budgets' counters against the rows and the journal, and what they hold against the calls in flight."""

import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from monitoring.audit import Difference, Differences
from monitoring.audit.journal import Journal, read_journal
from monitoring.budgets.spending import spent
from proxy.admission.limits_file import Counts, read_counts
from proxy.admission.redis.counters import read_counter
from proxy.admission.redis.owners import base_of
from proxy.journal.records import Opened
from routing.compiler import compile_table
from routing.periods import Periods, period_id
from routing.table import LimitOwner, RoutingTable

TRIES = 6  # calls go on while the counters are compared: only what differs every time is wrong
PAUSE = 1.2  # seconds; longer than a process takes to tell its counts


def differences(journal: Path) -> Differences:
    """Nothing for a budget that was not used since its counter began: it starts with what the rows say."""
    left = {owner.identity: owner for owner in budgets(compile_table())}
    found: dict[tuple[str, int], str] = {}
    for attempt in range(TRIES):
        if attempt and not found:
            break
        if attempt:
            time.sleep(PAUSE)
        counts = None if settings.REDIS_URL else read_counts(Path(settings.LIMITS_FILE))
        now = read_journal(journal)
        found = {
            identity: what for identity in found or left if (what := _check(left[identity], now, counts))
        }
    for what in found.values():
        yield Difference("budgets", what)


def budgets(table: RoutingTable) -> Iterator[LimitOwner]:
    """Each owner of a budget once."""
    limit_owners = [owner for key in table.keys.values() for owner in key.limit_owners]
    routes = {found.route.id: found.route for found in table.routes.values()}
    routes |= {route.id: route for _, route in table.wildcards}
    for route in routes.values():
        limit_owners += route.limit_owners
        limit_owners += [
            owner for target in (*route.targets, *route.shadows) for owner in target.limit_owners
        ]
    seen: set[tuple[str, int]] = set()
    for owner in limit_owners:
        if owner.budget is not None and (owner.kind, owner.id) not in seen:
            seen.add((owner.kind, owner.id))
            yield owner


def _check(owner: LimitOwner, journal: Journal, counts: Counts | None) -> str:
    assert owner.budget is not None
    start, end = Periods().of(owner.budget, time.time())
    mine = {id for id, opened in journal.open.items() if _is_of(opened, owner)}
    if settings.REDIS_URL:
        counter = read_counter(base_of(owner), period_id(start))
        counted, strays = counter.spent, set(counter.held) - journal.open.keys()
        holds = f"holds money for calls that are not in flight: {', '.join(sorted(strays))}" if strays else ""
    else:
        of_owner = [one for one in counts.budgets if (one.kind, one.id) == owner.identity] if counts else []
        one = next((one for one in of_owner if one.start == start), None)
        counted = one.spent if one else None
        unlike = one is not None and owner.kind in _SHARED and one.open != len(mine)
        holds = f"has {one.open if one else 0} calls open, the journal {len(mine)}" if unlike else ""
    name = f"{owner.kind} {owner.name}"
    if holds:
        return f"{name} {holds}"
    if counted is None:
        return ""
    logged = spent(owner, start, end)
    return "" if logged == counted else f"{name}: rows say {logged} nano-USD, the counter {counted}"


_SHARED = ("key", "team", "route")
"""Held for as long as a call is open, whichever target serves it."""


def _is_of(opened: Opened, owner: LimitOwner) -> bool:
    if opened.shadow:
        return False
    owners = {"key": opened.key_id == owner.id, "team": opened.team == owner.name}
    return owners.get(owner.kind, owner.kind == "route" and opened.route == owner.name)
