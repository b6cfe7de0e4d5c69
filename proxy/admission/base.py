"""What a store of limits does; one class per place where the counts live."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from routing.table import Claim

__all__ = ["Admission", "Claim", "FreeGrant", "Grant", "Headroom", "Need", "NoRoom", "Option", "Spent"]

NEVER = float("inf")


# Structs where one is made per request: a frozen dataclass costs six times as much.
class Need(msgspec.Struct, frozen=True, gc=False):
    """What one request asks for: tokens in the worst case, and when it came (Unix seconds).

    `budgeted`: whether any of its claims has a budget.
    """

    id: str  # the call's: its row in the log has the same
    tokens: int
    at: float
    budgeted: bool = True


class Option(msgspec.Struct, frozen=True):
    """One target that may serve the request, and what that costs in the worst case.

    cost_nano None: the price is unknown, so no budget can be kept with it.
    """

    claims: tuple[Claim, ...]
    cost_nano: int | None


class Headroom(msgspec.Struct, frozen=True, gc=False):
    """The state of one limit, for the x-ratelimit headers. `reset` is in seconds."""

    limit: int
    remaining: int
    reset: float


Headrooms = tuple[Headroom | None, Headroom | None]
"""Of requests and of tokens; None where there is no such limit."""
NO_HEADROOMS: Headrooms = (None, None)


@dataclass(frozen=True, slots=True)
class NoRoom:
    """Why an option could not be taken.

    `limit` is rpm, tpm, parallel, budget or price (unknown); `wait` seconds until it may fit:
    0 when one of the open calls ends, NEVER for a budget that never resets. `left` is nano-USD.
    """

    claim: Claim
    limit: str
    wait: float = 0.0
    left: int = 0


class Grant(Protocol):
    """What a call holds until it ends: one option and the shared limits."""

    option: int
    """The option that the call holds, as an index into the options it gave."""
    skipped: tuple[NoRoom, ...]
    """Why those before it were not taken."""

    @property
    def reserved_nano(self) -> int | None:
        """Nano-USD held against budgets; None where none applies."""

    @property
    def headrooms(self) -> Headrooms:
        """Of the key, or of its team or the route where the key itself has no limit."""

    async def move(self, first: int, last: int) -> None:
        """Let go of the held option, take the first of options[first:last] that has room.

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

    def at_once(self, shared: tuple[Claim, ...], options: Sequence[Option], need: Need) -> Grant | None:
        """What admit() would return, where that is known without waiting and plain to see.

        Looks at the first option only. A grant reads `options` again when it is moved: others may be
        added until then.
        """

    async def admit(self, shared: tuple[Claim, ...], options: Sequence[Option], need: Need) -> Grant:
        """Count one request against all of `shared` and the first option that has room, or nothing.

        Raises RateLimited, which names the limit, its owner and when it frees, or
        LimitsUnavailable where the counts can't be read.
        """

    async def start(self) -> None:
        """In the event loop that serves; a store that is away stops no start."""

    def state(self) -> dict[str, object]:
        """For readiness: where the counts are kept, and what is wrong with that place."""

    async def aclose(self) -> bool:
        """Write down what is not written yet; whether all of it is."""


Spent = Callable[[Claim, float | None, float | None, Collection[str]], int]
"""(owner, from, until, calls to leave out) -> nano-USD that the log says it spent; may block.

From and until are Unix seconds of a call's arrival; None is open.
"""


class FreeGrant:
    """Of a call that no limit applies to."""

    __slots__ = ("option",)
    skipped: tuple[NoRoom, ...] = ()
    reserved_nano: int | None = None
    headrooms: Headrooms = NO_HEADROOMS

    def __init__(self) -> None:
        self.option = 0

    async def move(self, first: int, last: int) -> None:
        self.option = first

    def settle(self, tokens: int | None, cost_nano: int | None) -> None:
        """Nothing is held."""


def reservation(shared: Sequence[Claim], option: Option) -> int | None:
    """What the option holds against budgets; None where no budget applies."""
    for claims in (shared, option.claims):
        for claim in claims:
            if claim.budget is not None:
                return option.cost_nano
    return None


def headroom_claim(shared: Sequence[Claim]) -> Claim | None:
    """The one that the x-ratelimit headers speak of."""
    for claim in shared:
        if claim.limits.rpm is not None or claim.limits.tpm is not None:
            return claim
    return None
