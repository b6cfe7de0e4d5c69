"""Which targets a request is sent to, in which order, and why others are left out."""

import random

from proxy.breaker.registry import Board
from proxy.breaker.state import Standing, TargetState
from proxy.calls.call import Call
from proxy.errors import GatewayError, NoHealthyUpstream, UpstreamRateLimited
from proxy.targets.session import session_of
from proxy.targets.tags import tags_of
from routing.strategies import STRATEGIES, Pick, Strategy, in_levels
from routing.table import ProviderEntry, RouteEntry, TargetEntry

_SET_ASIDE = {
    Standing.PROBING: "half-open: one request is trying it already",
    Standing.BROKEN: "circuit open",
    Standing.COOLING: "rate limited",
}


class Chooser:
    """One per gateway; holds the strategies with what they remember."""

    def __init__(self, board: Board, dice: random.Random) -> None:
        self.board = board
        self.strategies: dict[str, Strategy] = {name: kind() for name, kind in STRATEGIES.items()}
        self._dice = dice

    def order(self, call: Call, targets: list[TargetEntry], *, dry: bool = False) -> list[TargetEntry]:
        """Best first; what is left out is noted in the call. Raises the caller's error for none.

        Last come unhealthy providers. Broken targets become the call's last resorts: nothing else is left
        where the order is empty. Targets in the pause that a 429 asked for are not tried at all.
        """
        assert call.route is not None
        route = call.route.route
        self.board.rules = call.table.breaker
        strategy = self.strategies[route.strategy]
        fine = self._are_fine(targets)
        call.available = len(targets)
        if fine and len(targets) == 1 and not strategy.remembers:
            return targets
        pick = self.pick(call, dry=dry)
        if fine and targets:
            if route.one_level:
                return strategy.order(targets, pick)
            return _arranged(call, targets, strategy, pick)
        standings = _Standings(call, self, pick.now)
        for target in targets:
            standings.sort_in(target)
        found = _arranged(call, standings.ready, strategy, pick) if standings.ready else []
        if standings.soon:
            found = standings.without_the_soon(found)
        found += in_levels(standings.ill, strategy, pick)
        call.available = len(found)
        if standings.broken:
            call.last_resorts += ((call.route, standings.broken),)
        elif not found:
            raise standings.verdict(route, bool(targets))
        return found

    def pick(self, call: Call, *, dry: bool = False) -> Pick:
        assert call.ask is not None
        stream = call.ask.stream
        return Pick(stream, lambda: session_of(call), self.board, self._dice, self.board.clock(), dry)

    def lost(self, position: int, call: Call) -> bool:
        """Whether a target has become unavailable since the order was made."""
        if position >= call.available:
            return False
        target = call.order[position]
        return self.board.of(target.id).troubled and not self.may_try(target, call)

    def may_try(self, target: TargetEntry, call: Call) -> bool:
        state = self.board.of(target.id)
        if not state.troubled or not self.board.rules.enabled:
            return True
        return _standing(state, call, self.board.clock()) in (Standing.READY, Standing.PROBE)

    def standing(self, target: TargetEntry, call: Call, now: float) -> Standing:
        if not self.board.rules.enabled:
            return Standing.READY
        return _standing(self.board.of(target.id), call, now)

    def _are_fine(self, targets: list[TargetEntry]) -> bool:
        """The usual case, looked at first because it is cheap."""
        state_of = self.board.of
        for target in targets:  # noqa: SIM110 all() costs a generator, and this is per request
            if target.provider.unhealthy or state_of(target.id).troubled:
                return False
        return True


def _standing(state: TargetState, call: Call, now: float) -> Standing:
    standing = state.standing(now)
    if standing is Standing.COOLING and call.caller_credential:
        return Standing.READY  # another account, which the 429 didn't speak of
    return standing


class _Standings:
    """Sorts targets by whether they may be tried."""

    def __init__(self, call: Call, chooser: Chooser, now: float) -> None:
        self.ready: list[TargetEntry] = []
        self.ill: list[TargetEntry] = []
        self.broken: list[TargetEntry] = []
        self.cooling: list[tuple[float, TargetEntry]] = []
        self.soon: dict[TargetEntry, float] = {}  # of the ready: seconds until a 429's pause is over
        self.refused: list[TargetEntry] = []
        self._call = call
        self._chooser = chooser
        self._now = now

    def sort_in(self, target: TargetEntry) -> None:
        standing = self._chooser.standing(target, self._call, self._now)
        if target.provider.unhealthy and target.provider.refuse_when_unhealthy:
            self.refused.append(target)
            self._call.skip(target, _why_refused(target.provider))
        elif standing in (Standing.READY, Standing.PROBE):
            (self.ill if target.provider.unhealthy else self.ready).append(target)
        elif self._is_soon(target, standing):
            self.ready.append(target)
        else:
            self._set_aside(target, standing)

    def _is_soon(self, target: TargetEntry, standing: Standing) -> bool:
        assert self._call.route is not None
        most = self._call.route.route.wait_for_preferred
        if most is None or standing is not Standing.COOLING or target.provider.unhealthy:
            return False
        wait = self._chooser.board.of(target.id).wait(self._now)
        if wait > most:
            return False
        self.soon[target] = wait
        return True

    def without_the_soon(self, found: list[TargetEntry]) -> list[TargetEntry]:
        """Only the preferred target is waited for; the others pause as ever."""
        self._call.wait_first = self.soon.pop(found[0], 0.0)
        for target in self.soon:
            self._set_aside(target, Standing.COOLING)
        return [target for target in found if target not in self.soon]

    def _set_aside(self, target: TargetEntry, standing: Standing) -> None:
        state = self._chooser.board.of(target.id)
        wait = state.wait(self._now)
        why = _SET_ASIDE[standing]
        why += f" for {wait:.1f} s more ({state.why})" if wait else ""
        if standing is Standing.COOLING:
            self.cooling.append((wait, target))
            self._call.skip(target, why)
        else:
            self.broken.append(target)
            self._call.skip(target, f"{why}; a last resort")

    def verdict(self, route: RouteEntry, any_targets: bool) -> GatewayError:
        """Why nothing can be tried."""
        if self.cooling:
            wait, target = min(self.cooling, key=lambda found: found[0])
            slug = target.provider.slug
            return UpstreamRateLimited(
                f"Every target of {route.name} is rate limited; {slug} again in {wait:.1f} s.",
                provider=slug,
                retry_after=wait,
            )
        reason = self._reason(route) if any_targets or route.fault else "it has no enabled target"
        return NoHealthyUpstream(f"No provider can serve {route.name} now ({reason}).", retry_after=5)

    def _reason(self, route: RouteEntry) -> str:
        if route.fault:
            return "an admin must mend the route's settings"
        providers = [target.provider for target in self.refused]
        names = ", ".join(sorted({provider.slug for provider in providers}))
        if all(provider.maintenance for provider in providers):
            return f"in maintenance: {names}"
        broken = all(provider.fault for provider in providers)
        return f"out until an admin mends it: {names}" if broken else f"unhealthy: {names}"


def _why_refused(provider: ProviderEntry) -> str:
    if provider.fault:
        return f"out until an admin mends it: {provider.fault}"
    return f"its provider is {'in maintenance' if provider.maintenance else 'unhealthy and then refuses'}"


def _arranged(call: Call, targets: list[TargetEntry], strategy: Strategy, pick: Pick) -> list[TargetEntry]:
    """The strategy's order; targets with one of the request's tags before all others, canaries by share."""
    assert call.route is not None
    route = call.route.route
    if not route.canaries and not route.tagged:
        return in_levels(targets, strategy, pick)
    canaries = [target for target in targets if target.canary_share is not None]
    others = [target for target in targets if target.canary_share is None]
    chosen = _drawn(canaries, strategy.roll(pick)) if canaries else None
    first = [] if chosen is None else [chosen]
    return [
        *first,
        *_by_tags(others, tags_of(call) if route.tagged else frozenset(), strategy, pick),
        *(target for target in canaries if target is not chosen),
    ]


def _drawn(canaries: list[TargetEntry], roll: float) -> TargetEntry | None:
    for target in canaries:
        roll -= target.canary_share or 0.0
        if roll < 0:
            return target
    return None


def _by_tags(
    targets: list[TargetEntry], tags: frozenset[str], strategy: Strategy, pick: Pick
) -> list[TargetEntry]:
    if not tags:
        return in_levels(targets, strategy, pick)
    matching = [target for target in targets if target.tags]  # others were left out when it was resolved
    untagged = [target for target in targets if not target.tags]
    return in_levels(matching, strategy, pick) + in_levels(untagged, strategy, pick)
