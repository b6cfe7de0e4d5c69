"""Step 4: what a call demands of the limits, for each target that may serve it."""

from proxy.admission.base import Admission, Candidate, Demand, FreeGrant, Grant
from proxy.admission.refusals import message
from proxy.ask import ChatAsk
from proxy.calls.call import Call
from proxy.errors import GatewayError, RateLimited
from proxy.ids import uuid7
from proxy.metering.usage import worst_cost
from proxy.targets.resolve import targets_of
from routing.table import LimitOwner, Resolved, RouteEntry, TargetEntry

MOST_TOKENS = 10**12  # of one answer; above any limit, and what every store of limits can count


async def admit(call: Call, admission: Admission) -> Grant:
    """For one of the targets in call.order; without any limits it costs next to nothing.

    Raises RateLimited or LimitsUnavailable.
    """
    return admit_at_once(call, admission) or await admit_closely(call, admission)


def admit_at_once(call: Call, admission: Admission) -> Grant | None:
    """What admit() would return, where that is known without waiting and plain to see."""
    assert call.key is not None
    assert call.route is not None
    key, route = call.key, call.route.route
    call.admitted = call.route
    if not key.limit_owners and not route.limited:
        return FreeGrant()
    if call.table.recounted > admission.recounted:
        admission.recount(call.table.recounted)
    ask, order = call.ask, call.order
    assert ask is not None
    budgeted = key.budgeted or route.budgeted
    given, answer = ask.prompt_tokens, _answer_tokens(ask, route)
    call.demand = demand = Demand(call.id, given + answer, call.received_at_ns / 1e9, budgeted, call.table)
    call.candidates = [_candidate(order[0], given, answer, budgeted)]
    call.bounds_answer = key.budgeted or (budgeted and _bounds_answers(route, order))
    grant = admission.at_once(key.limit_owners + route.limit_owners, call.candidates, demand)
    if grant is not None:
        call.rate_limits = grant.rate_limits
    return grant


async def admit_closely(call: Call, admission: Admission) -> Grant:
    """admit() where admit_at_once() returned None."""
    assert call.key is not None
    assert call.route is not None
    assert call.demand is not None
    complete_candidates(call)
    try:
        grant = await admission.admit(
            call.key.limit_owners + call.route.route.limit_owners, call.candidates, call.demand
        )
    except RateLimited as error:
        call.rate_limits = error.rate_limits
        raise
    call.rate_limits = grant.rate_limits
    if grant.skipped:
        for target, hit in zip(call.order, grant.skipped, strict=False):
            call.skip(target, message(hit, call.demand))
    return grant


async def admit_alone(call: Call, target: TargetEntry, admission: Admission) -> Grant:
    """Against the target's and its provider's limits only. Raises RateLimited or LimitsUnavailable."""
    assert call.ask is not None
    assert call.route is not None
    given, answer = call.ask.prompt_tokens, _answer_tokens(call.ask, call.route.route)
    # A hold beside the call's own one, perhaps of the same provider: it needs a name of its own.
    demand = Demand(uuid7(), given + answer, call.received_at_ns / 1e9, table=call.table)
    return await admission.admit((), [_candidate(target, given, answer, True)], demand)


async def admit_fallback(call: Call, position: int, admission: Admission, last: int | None = None) -> None:
    """The call's grant holds one of the targets from `position` on, which a fallback route added.

    `last`: of those before it only.

    Raises RateLimited or LimitsUnavailable.
    """
    assert call.grant is not None
    complete_candidates(call)
    added = call.candidates[position:]
    if isinstance(call.grant, FreeGrant) and any(candidate.limit_owners for candidate in added):
        assert call.demand is not None
        call.grant = await admission.admit((), call.candidates, call.demand)  # until now no limit applied
    call.bounds_answer = call.bounds_answer or any(_any_budget(candidate.limit_owners) for candidate in added)
    await call.grant.move(position, len(call.order) if last is None else last)


async def move(call: Call, first: int, last: int) -> None:
    """Let the call's grant hold the first of call.order[first:last] that has room instead.

    Raises RateLimited or LimitsUnavailable.
    """
    assert call.grant is not None
    complete_candidates(call)
    await call.grant.move(first, last)


def complete_candidates(call: Call) -> None:
    """Also of the targets behind the first: most calls never ask for them."""
    if call.candidates:
        call.candidates += candidates_of(call, call.order[len(call.candidates) :])


def _any_budget(limit_owners: tuple[LimitOwner, ...]) -> bool:
    return any(owner.budget is not None for owner in limit_owners)


def _bounds_answers(route: RouteEntry, targets: list[TargetEntry]) -> bool:
    return _any_budget(route.limit_owners) or any(_any_budget(target.limit_owners) for target in targets)


def candidates_of(
    call: Call, targets: list[TargetEntry], also: tuple[LimitOwner, ...] = ()
) -> list[Candidate]:
    """Of targets of the call's present route; `also` are owners of limits that all of them have."""
    assert call.ask is not None
    assert call.route is not None
    budgeted = call.demand is None or call.demand.budgeted
    answer = _answer_tokens(call.ask, call.route.route)
    given = call.ask.prompt_tokens
    return [_candidate(target, given, answer, budgeted, also) for target in targets]


def _candidate(
    target: TargetEntry, given: int, answer: int, budgeted: bool, also: tuple[LimitOwner, ...] = ()
) -> Candidate:
    """What it costs in the worst case is worked out only where a budget asks for it."""
    return Candidate(also + target.limit_owners, worst_cost(given, answer, target.price) if budgeted else 0)


def _answer_tokens(ask: ChatAsk, route: RouteEntry) -> int:
    tokens = route.answer_tokens if ask.answer_limit is None else ask.answer_limit
    if "n" in ask.fields:
        tokens *= ask.choices
    return tokens if tokens < MOST_TOKENS else MOST_TOKENS


def over_limit_route(call: Call) -> tuple[Resolved, list[TargetEntry]] | None:
    """The route that serves where a limit keeps the call from its own; None where there is none."""
    assert call.key is not None
    assert call.route is not None
    wanted = call.route.route.over_limit_route
    route = call.table.route_by_id(wanted) if wanted is not None else None
    if route is None or not call.key.may_use(route):
        return None
    found = Resolved(route)
    try:
        return found, targets_of(call, found)
    except GatewayError:
        return None  # the caller's own choice of provider or credential rules it out
