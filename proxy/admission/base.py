"""What a store of limits does; one class per place where the counts live."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from routing.table import EMPTY_TABLE, LimitOwner, RoutingTable

__all__ = [
    "Admission",
    "Candidate",
    "Demand",
    "FreeGrant",
    "Grant",
    "LimitHit",
    "LimitOwner",
    "RateLimitState",
    "Spent",
]

NEVER = float("inf")


# Structs where one is made per request: a frozen dataclass costs six times as much.
class Demand(msgspec.Struct, frozen=True, gc=False):
    """What one request asks for: tokens in the worst case, and when it came (Unix seconds).

    `budgeted`: whether any of its owners of limits has a budget.
    """

    id: str  # the call's: its row in the log has the same
    tokens: int
    at: float
    budgeted: bool = True
    table: RoutingTable = EMPTY_TABLE  # whose entries the owners are


class Candidate(msgspec.Struct, frozen=True):
    """One target that may serve the request, and what that costs in the worst case.

    cost_nano None: the price is unknown, so no budget can be kept with it.
    """

    limit_owners: tuple[LimitOwner, ...]
    cost_nano: int | None


class RateLimitState(msgspec.Struct, frozen=True, gc=False):
    """The state of one limit, for the x-ratelimit headers. `reset` is in seconds."""

    limit: int
    remaining: int
    reset: float


RateLimitStates = tuple[RateLimitState | None, RateLimitState | None]
"""Of requests and of tokens; None where there is no such limit."""
NO_RATE_LIMITS: RateLimitStates = (None, None)


@dataclass(frozen=True, slots=True)
class LimitHit:
    """Why a candidate could not be taken.

    `limit` is rpm, tpm, parallel, budget or price (unknown); `wait` seconds until it may fit:
    0 when one of the open calls ends, NEVER for a budget that never resets. `left` is nano-USD.
    """

    owner: LimitOwner
    limit: str
    wait: float = 0.0
    left: int = 0


class Grant(Protocol):
    """What a call holds until it ends: one candidate and the shared limits."""

    candidate: int
    """The candidate that the call holds, as an index into those it gave."""
    skipped: tuple[LimitHit, ...]
    """Why those before it were not taken."""

    @property
    def reserved_nano(self) -> int | None:
        """Nano-USD held against budgets; None where none applies."""

    @property
    def rate_limits(self) -> RateLimitStates:
        """Of the key, or of its team or the route where the key itself has no limit."""

    async def move(self, first: int, last: int) -> None:
        """Let go of the held candidate, take the first of candidates[first:last] that has room.

        Taking the same one again counts as a further request to it. Raises RateLimited where
        none has room; the shared limits stay held.
        """

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        """Give back what is held, correct tokens and spending to what they were.

        None: not known, so what was reserved counts. Not awaited; only the first call counts.
        """


class Admission(Protocol):
    recounted: int
    """The last `recount` that was asked for."""

    def recount(self, number: int) -> None:
        """Costs in the log were corrected: what budgets have spent is read from it again.

        Called in the event loop.
        """

    def at_once(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> Grant | None:
        """What admit() would return, where that is known without waiting and plain to see.

        Looks at the first candidate only. A grant reads `candidates` again when it is moved: others may be
        added until then.
        """

    async def admit(
        self, shared: tuple[LimitOwner, ...], candidates: Sequence[Candidate], demand: Demand
    ) -> Grant:
        """Count one request against all of `shared` and the first candidate that has room, or nothing.

        Raises RateLimited, which names the limit, its owner and when it frees, or
        LimitsUnavailable where the counts can't be read.
        """

    async def start(self) -> None:
        """In the event loop that serves; a store that is away stops no start."""

    def state(self) -> dict[str, object]:
        """For readiness: where the counts are kept, and what is wrong with that place."""

    async def aclose(self) -> bool:
        """Write down what is not written yet; whether all of it is."""


Spent = Callable[[LimitOwner, float | None, float | None, Collection[str]], int]
"""(owner, from, until, calls to leave out) -> nano-USD that the log says it spent; may block.

From and until are Unix seconds of a call's arrival; None is open.
"""


class FreeGrant:
    """Of a call that no limit applies to."""

    __slots__ = ("candidate",)
    skipped: tuple[LimitHit, ...] = ()
    reserved_nano: int | None = None
    rate_limits: RateLimitStates = NO_RATE_LIMITS

    def __init__(self) -> None:
        self.candidate = 0

    async def move(self, first: int, last: int) -> None:
        self.candidate = first

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        """Nothing is held."""


def reservation(shared: Sequence[LimitOwner], candidate: Candidate) -> int | None:
    """What the candidate holds against budgets; None where no budget applies."""
    for limit_owners in (shared, candidate.limit_owners):
        for owner in limit_owners:
            if owner.budget is not None:
                return candidate.cost_nano
    return None


def rate_limited_owner(shared: Sequence[LimitOwner]) -> LimitOwner | None:
    """The one that the x-ratelimit headers speak of."""
    for owner in shared:
        if owner.limits.rpm is not None or owner.limits.tpm is not None:
            return owner
    return None
