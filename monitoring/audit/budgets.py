"""Budgets' counters against the rows and the journal, and what they hold against the calls in flight."""

import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings

from monitoring.audit import Difference, Differences
from monitoring.audit.journal import Journal, read_journal
from monitoring.spending import spent
from proxy.admission.limits_file import Counts, read_counts
from proxy.admission.redis.counters import read_counter
from proxy.admission.redis.owners import base_of
from proxy.journal.records import Opened
from routing.compiler import compile_table
from routing.periods import Periods, period_id
from routing.table import Claim, RoutingTable

TRIES = 6  # calls go on while the counters are compared: only what differs every time is wrong
PAUSE = 1.2  # seconds; longer than a process takes to tell its counts


def differences(journal: Path) -> Differences:
    """Nothing for a budget that was not used since its counter began: it starts with what the rows say."""
    left = {(claim.kind, claim.id): claim for claim in budgets(compile_table())}
    found: dict[tuple[str, int], str] = {}
    for attempt in range(TRIES):
        if attempt and not found:
            break
        if attempt:
            time.sleep(PAUSE)
        counts = None if settings.REDIS_URL else read_counts(Path(settings.LIMITS_FILE))
        now = read_journal(journal)
        found = {owner: what for owner in found or left if (what := _check(left[owner], now, counts))}
    for what in found.values():
        yield Difference("budgets", what)


def budgets(table: RoutingTable) -> Iterator[Claim]:
    """Each owner of a budget once."""
    claims = [claim for key in table.keys.values() for claim in key.claims]
    routes = {found.route.id: found.route for found in table.routes.values()}
    routes |= {route.id: route for _, route in table.wildcards}
    for route in routes.values():
        claims += route.claims
        claims += [claim for target in (*route.targets, *route.shadows) for claim in target.claims]
    seen: set[tuple[str, int]] = set()
    for claim in claims:
        if claim.budget is not None and (claim.kind, claim.id) not in seen:
            seen.add((claim.kind, claim.id))
            yield claim


def _check(claim: Claim, journal: Journal, counts: Counts | None) -> str:
    assert claim.budget is not None
    start, end = Periods().of(claim.budget, time.time())
    mine = {id for id, opened in journal.open.items() if _is_of(opened, claim)}
    if settings.REDIS_URL:
        counter = read_counter(base_of(claim), period_id(start))
        counted, strays = counter.spent, set(counter.held) - journal.open.keys()
        holds = f"holds money for calls that are not in flight: {', '.join(sorted(strays))}" if strays else ""
    else:
        of_owner = (
            [one for one in counts.budgets if (one.kind, one.id) == (claim.kind, claim.id)] if counts else []
        )
        one = next((one for one in of_owner if one.start == start), None)
        counted = one.spent if one else None
        unlike = one is not None and claim.kind in _SHARED and one.open != len(mine)
        holds = f"has {one.open if one else 0} calls open, the journal {len(mine)}" if unlike else ""
    owner = f"{claim.kind} {claim.name}"
    if holds:
        return f"{owner} {holds}"
    if counted is None:
        return ""
    logged = spent(claim, start, end)
    return "" if logged == counted else f"{owner}: rows say {logged} nano-USD, the counter {counted}"


_SHARED = ("key", "team", "route")
"""Held for as long as a call is open, whichever target serves it."""


def _is_of(opened: Opened, claim: Claim) -> bool:
    if opened.shadow:
        return False
    owners = {"key": opened.key_id == claim.id, "team": opened.team == claim.name}
    return owners.get(claim.kind, claim.kind == "route" and opened.route == claim.name)
