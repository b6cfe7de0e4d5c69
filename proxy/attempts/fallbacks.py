"""Where a call goes when its own route can't serve it: the route's fallback lists."""

from collections.abc import Iterator

from proxy.admit import candidates_of, complete_candidates
from proxy.calls.call import Call
from proxy.errors import (
    ContentPolicyRefused,
    ContextWindowExceeded,
    GatewayError,
    NoHealthyUpstream,
    UpstreamRateLimited,
)
from proxy.targets.resolve import targets_of
from proxy.targets.selection import Chooser
from routing.table import Resolved, RouteEntry, TargetEntry

ERROR, CONTEXT, POLICY = "error", "context", "policy"


def kind_of(failure: GatewayError) -> str | None:
    """The list that such a failure leads to; None where it is the caller's to see."""
    if isinstance(failure, ContextWindowExceeded):
        return CONTEXT
    return POLICY if isinstance(failure, ContentPolicyRefused) else None


def choose(call: Call, targets: list[TargetEntry], chooser: Chooser, *, dry: bool = False) -> None:
    """Puts the targets of the call's route in order, with others in their place where none may be tried.

    These are a fallback route's; where there is none, the route's own with an open circuit.
    """
    try:
        call.order = chooser.order(call, targets, dry=dry)
    except (NoHealthyUpstream, UpstreamRateLimited):
        call.available = 0
        if not next_fallback(call, ERROR, chooser, dry=dry) and not take_last_resort(call):
            raise
        return
    if not call.order and not next_fallback(call, ERROR, chooser, dry=dry):
        take_last_resort(call)


def take_last_resort(call: Call, *, alone: bool = False) -> bool:
    """Add the targets of one route whose circuit is open; False where there are none left.

    `alone`: instead of the others, which limits keep from serving.
    """
    if not call.last_resorts:
        return False
    asked = call.fell_back_from or call.route
    (route, targets), *rest = call.last_resorts
    call.last_resorts = tuple(rest)
    if alone:
        call.order, call.candidates, call.available = [], [], 0
    else:
        complete_candidates(call)
    call.route = route
    call.fell_back_from = None if route is asked else asked
    call.order = [*call.order, *targets]
    if call.candidates:
        also = () if route is call.admitted else route.route.limit_owners
        call.candidates += candidates_of(call, targets, also=also)
    return True


def next_fallback(call: Call, kind: str, chooser: Chooser, *, dry: bool = False) -> bool:
    """Add the targets of the next fallback route of this kind to the call's order.

    Only the lists of the route that was asked for are followed, each route once, and none that the
    key may not use. False where there is none left.
    """
    assert call.route is not None
    asked = call.fell_back_from or call.route
    for route in list(_left(call, kind)):
        call.fallbacks_tried += (route.id,)
        if _append(call, asked, route, chooser, dry):
            call.fell_back_from = asked
            return True
    return False


def any_left(call: Call, kind: str) -> bool:
    """Whether there is a fallback route of this kind that was not looked at yet."""
    return next(_left(call, kind), None) is not None


def _left(call: Call, kind: str) -> Iterator[RouteEntry]:
    asked = call.fell_back_from or call.route
    assert asked is not None
    assert call.key is not None
    for route_id in _listed(asked.route, kind):
        route = call.table.route_by_id(route_id)
        if route is not None and route_id not in call.fallbacks_tried and call.key.may_use(route):
            yield route


def _listed(route: RouteEntry, kind: str) -> tuple[int, ...]:
    if kind == CONTEXT:
        return route.context_fallbacks
    return route.policy_fallbacks if kind == POLICY else route.fallbacks


def _append(call: Call, asked: Resolved, route: RouteEntry, chooser: Chooser, dry: bool) -> bool:
    complete_candidates(call)
    before, order, available = call.route, call.order, call.available
    call.route = Resolved(route, asked.wildcard_part)
    try:
        more = chooser.order(call, targets_of(call, call.route), dry=dry)
    except GatewayError:  # none of its targets may be tried: the trail says why
        call.route, call.available = before, available
        return False
    if not more:  # all of them have an open circuit: last resorts
        call.route, call.available = before, available
        return False
    call.available += len(order)
    call.order = [*order, *more]
    call.candidates += candidates_of(call, more, also=route.limit_owners)
    return True
