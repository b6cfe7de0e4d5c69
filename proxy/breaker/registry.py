"""All targets' live states, by id: they outlive the tables."""

import time
from collections.abc import Callable

from proxy.breaker.state import Standing, TargetState
from proxy.errors import (
    GatewayError,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamUnpaid,
)
from routing.table import BreakerRules, RouteEntry, RoutingTable, TargetEntry


class _States(dict[int, TargetState]):
    def __missing__(self, target_id: int) -> TargetState:
        state = self[target_id] = TargetState()
        return state


class Board:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.rules = BreakerRules()
        self.states = _States()
        self.of: Callable[[int], TargetState] = self.states.__getitem__
        """The state of a target, by its id; made at the first look."""

    def begin(self, target_id: int, *, stream: bool, own_key: bool = False, caller: int = 0) -> "Trial":
        """One call to the target; it must be ended.

        `own_key`: made with the caller's credential. `caller`: the id of the gateway key, 0 for none.
        """
        return Trial(self, self.of(target_id), stream, own_key, caller)

    def forget_missing(self, table: RoutingTable) -> None:
        kept = {target.id for found in table.routes.values() for target in _all(found.route)}
        kept |= {target.id for _, route in table.wildcards for target in _all(route)}
        for target_id in list(self.states):
            if target_id not in kept and not self.states[target_id].in_flight:
                self.states.pop(target_id, None)


def _all(route: RouteEntry) -> tuple[TargetEntry, ...]:
    return (*route.targets, *route.shadows)


class Trial:
    """What one call tells about its target. Every call ends with end(), however often."""

    __slots__ = ("_board", "_caller", "_good", "_open", "_own_key", "_probe", "_state", "_stream", "started")

    def __init__(
        self, board: Board, state: TargetState, stream: bool, own_key: bool, caller: int = 0
    ) -> None:
        self._board = board
        self._caller = caller
        self._state = state
        self._stream = stream
        self._own_key = own_key
        self._open = True
        self._good = False
        self.started = board.clock()
        state.in_flight += 1
        self._probe = state.troubled and state.standing(self.started) is Standing.PROBE
        if self._probe:
            state.probing = True

    def answered(self) -> None:
        """The whole answer is there, or a stream's first bytes."""
        state, now = self._state, self._board.clock()
        state.measured((now - self.started) * 1000, now, stream=self._stream)
        if state.troubled:
            state.answers(self.started, now)
        if state.unpaid_to is not None:
            state.unpaid_to = None
        self.started = now  # a stream that breaks from here on is a failure of now
        self._good = True
        if self._probe:
            self._probed()

    def failed(self, error: GatewayError) -> None:
        """Only the provider's faults count; a caller's own account says nothing about the gateway's."""
        now, rules = self._board.clock(), self._board.rules
        self._good = False
        if isinstance(error, UpstreamRejected):
            self._state.answers(self.started, now)  # as the request deserved
            self._good = True
        elif isinstance(error, UpstreamRateLimited):
            if not self._own_key:
                self._state.limited(error.message, error.told_wait, now, rules)
        elif isinstance(error, UpstreamUnpaid) and not self._is_confirmed(error):
            self._state.note(error.message)
        elif isinstance(error, UpstreamError):
            self._state.failed(error.message, self.started, now, rules)
        if self._probe:
            self._probed()

    def _is_confirmed(self, error: UpstreamUnpaid) -> bool:
        """Words alone open no circuit until a second caller meets them: the first may have made them."""
        first = self._state.unpaid_to
        if first is None:
            self._state.unpaid_to = self._caller
        return error.certain or first not in (None, self._caller)

    def end(self) -> None:
        if self._open:
            self._open = False
            self._state.in_flight -= 1
            if self._good:
                self._state.succeeded(self._board.clock())
            if self._probe:
                self._probed()

    def _probed(self) -> None:
        self._probe = self._state.probing = False
