"""What a store of limits does; one class per place where the counts live."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import RateLimited
from routing.table import Limits


@dataclass(frozen=True, slots=True)
class Claim:
    """One owner whose limits a call counts against."""

    kind: str  # key, team, target or provider
    id: int
    name: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class Headroom:
    """The state of one limit, for the x-ratelimit headers. `reset` is in seconds."""

    limit: int
    remaining: int
    reset: float


class Grant(Protocol):
    """What a call holds until it ends."""

    def settle(self, tokens: int | None) -> None:
        """Give back the parallel slots and correct the reserved tokens; None keeps the estimate.

        Only the first call counts.
        """


class Admission(Protocol):
    async def admit(self, claims: Sequence[Claim], tokens: int) -> Grant:
        """Count one request and `tokens` against all claims, or against none.

        Raises RateLimited, which names the limit, its owner and when it frees.
        """

    def headroom(self, claim: Claim) -> tuple[Headroom | None, Headroom | None]:
        """(requests, tokens) of the claim's owner; None where it has no such limit."""


OWNERS = {"key": "API key", "team": "Team", "target": "Target", "provider": "Provider"}


def over_limit(claim: Claim, limit: str, retry_after: float) -> RateLimited:
    frees = f"It frees in {retry_after:.1f} s." if retry_after else "It frees when one of them ends."
    return RateLimited(
        f"{OWNERS[claim.kind]} {claim.name} is at its limit of {limit}. {frees}",
        retry_after=max(retry_after, 0.001),
        param=None,
    )
