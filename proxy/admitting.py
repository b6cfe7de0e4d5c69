"""Step 4: what a call claims of the limits, for each target that may serve it."""

from proxy.admission.base import Admission, FreeGrant, Grant, Need, Option
from proxy.admission.refusals import message
from proxy.call import Call
from proxy.errors import GatewayError, RateLimited
from proxy.resolve import targets_of
from proxy.usage import worst_cost
from routing.table import Claim, Resolved, TargetEntry


async def admit(call: Call, admission: Admission) -> Grant:
    """For one of the targets in call.order; without any limits it costs next to nothing.

    Raises RateLimited or LimitsUnavailable.
    """
    key, route = call.key, call.route
    assert key is not None
    assert route is not None
    if not key.claims and not route.route.limited:
        return FreeGrant()
    shared = key.claims + route.route.claims
    options, call.need = _asked(call, call.order)
    call.bounds_answer = _has_budget(shared, options)
    try:
        grant = await admission.admit(shared, options, call.need)
    except RateLimited as error:
        call.headrooms = error.headrooms
        raise
    call.headrooms = grant.headrooms
    for target, reason in zip(call.order, grant.skipped, strict=False):
        call.skip(target, message(reason, call.need))
    return grant


async def admit_alone(call: Call, target: TargetEntry, admission: Admission) -> Grant:
    """Against the target's and its provider's limits only. Raises RateLimited or LimitsUnavailable."""
    options, call.need = _asked(call, [target])
    return await admission.admit((), options, call.need)


def _asked(call: Call, in_order: list[TargetEntry]) -> tuple[list[Option], Need]:
    route, ask = call.route, call.ask
    assert route is not None
    assert ask is not None
    given = ask.answer_limit
    answer = (route.route.answer_tokens if given is None else given) * ask.choices
    options = [
        Option(target.claims, worst_cost(ask.prompt_tokens, answer, target.price)) for target in in_order
    ]
    return options, Need(call.id, ask.prompt_tokens + answer, call.received_at_ns / 1e9)


def _has_budget(shared: tuple[Claim, ...], options: list[Option]) -> bool:
    claims = [*shared, *(claim for option in options for claim in option.claims)]
    return any(claim.budget is not None for claim in claims)


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
