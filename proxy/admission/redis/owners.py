"""How an owner of limits is named to Redis: the same words for all of its calls in a period."""

import math
from collections.abc import Iterable

from proxy.admission.base import Claim, Need
from proxy.admission.redis.scripts import PREFIX
from routing.periods import Periods, period_id

KEPT_AFTER_END = 2 * 86400  # seconds that Redis keeps a budget's period after its end
MOST_KEPT = 100_000


def base_of(claim: Claim) -> str:
    return f"{PREFIX}:{claim.path}"


class RedisOwner:
    """One claim in the running period of its budget."""

    __slots__ = ("base", "claim", "counted", "end", "ends", "limits", "period", "since", "start", "until")

    def __init__(self, claim: Claim, start: float | None, end: float | None) -> None:
        limits = claim.limits
        self.claim = claim
        self.base = base_of(claim)
        self.start, self.end = start, end  # Unix seconds, the end excluded; None: it has no period that ends
        self.since = -math.inf if start is None else start
        self.until = math.inf if end is None else end
        self.counted = limits.rpm is not None or limits.tpm is not None
        self.period = None if claim.budget is None else period_id(start)
        # Text, as the scripts hand it on: Redis 7.2 takes 1.79e+12 for it where Lua has a number.
        self.ends = None if end is None else f"{int(end + KEPT_AFTER_END)}000"
        self.limits = _given(
            rpm=limits.rpm,
            tpm=limits.tpm,
            parallel=limits.parallel,
            budget=None if claim.budget is None else claim.budget.limit_nano,
            period=self.period,
            ends=self.ends,
        )

    def to_settle(self, tokens: int) -> dict[str, object] | None:
        """As lua/settle.lua reads it; None where it holds nothing that a call gives back."""
        limits = self.claim.limits
        found = _given(
            parallel=True if limits.parallel is not None else None,
            tokens=tokens if limits.tpm is not None else None,
            period=self.period,
            ends=self.ends,
        )
        return {"base": self.base, **found} if found else None


def _given(**values: object) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


class RedisOwners:
    """Keeps what was made of each claim, as long as its table and its period last."""

    def __init__(self) -> None:
        self._periods = Periods()
        self._known: dict[tuple[str, int], RedisOwner] = {}

    def of(self, claim: Claim, at: float) -> RedisOwner:
        """`at` is when the call came, in Unix seconds."""
        found = self._known.get(claim.owner)
        if found is not None and found.claim is claim and found.since <= at < found.until:
            return found
        start, end = (None, None) if claim.budget is None else self._periods.of(claim.budget, at)
        if len(self._known) > MOST_KEPT:
            self._known.clear()
        found = self._known[claim.owner] = RedisOwner(claim, start, end)
        return found

    def all_of(self, claims: Iterable[Claim], need: Need) -> list[RedisOwner]:
        found = []
        for claim in claims:
            found.append(self.of(claim, need.at))
        return found
