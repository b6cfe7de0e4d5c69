"""How an owner of limits is named to Redis: the same words for all of its calls in a period."""

import math
from collections.abc import Iterable

from proxy.admission.base import Demand, LimitOwner
from proxy.admission.redis.scripts import PREFIX
from routing.periods import Periods, period_id
from routing.table_cache import TableCache

KEPT_AFTER_END = 2 * 86400  # seconds that Redis keeps a budget's period after its end
MOST_KEPT, OWNER_BYTES = 100_000, 1_500


def base_of(limit_owner: LimitOwner) -> str:
    return f"{PREFIX}:{limit_owner.path}"


class RedisOwner:
    """One owner in the running period of its budget."""

    __slots__ = (
        "base",
        "counted",
        "end",
        "ends",
        "limit_owner",
        "limits",
        "period",
        "since",
        "start",
        "until",
    )

    def __init__(self, limit_owner: LimitOwner, start: float | None, end: float | None) -> None:
        limits = limit_owner.limits
        self.limit_owner = limit_owner
        self.base = base_of(limit_owner)
        self.start, self.end = start, end  # Unix seconds, the end excluded; None: it has no period that ends
        self.since = -math.inf if start is None else start
        self.until = math.inf if end is None else end
        self.counted = limits.rpm is not None or limits.tpm is not None
        self.period = None if limit_owner.budget is None else period_id(start)
        # Text, as the scripts hand it on: Redis 7.2 takes 1.79e+12 for it where Lua has a number.
        self.ends = None if end is None else f"{int(end + KEPT_AFTER_END)}000"
        self.limits = _given(
            rpm=limits.rpm,
            tpm=limits.tpm,
            parallel=limits.parallel,
            budget=None if limit_owner.budget is None else limit_owner.budget.limit_nano,
            period=self.period,
            ends=self.ends,
        )

    def to_settle(self, tokens: int) -> dict[str, object] | None:
        """As lua/settle.lua reads it; None where it holds nothing that a call gives back."""
        limits = self.limit_owner.limits
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
    """Keeps what was made of each owner, as long as its table and its period last."""

    def __init__(self) -> None:
        self._periods = Periods()
        self._known: TableCache[RedisOwner] = TableCache(MOST_KEPT, MOST_KEPT * OWNER_BYTES)

    def of(self, limit_owner: LimitOwner, demand: Demand) -> RedisOwner:
        at, table = demand.at, demand.table
        found = self._known.get(table, limit_owner.identity)
        if found is not None and found.limit_owner is limit_owner and found.since <= at < found.until:
            return found
        start, end = (None, None) if limit_owner.budget is None else self._periods.of(limit_owner.budget, at)
        return self._known.put(table, limit_owner.identity, RedisOwner(limit_owner, start, end), OWNER_BYTES)

    def all_of(self, limit_owners: Iterable[LimitOwner], demand: Demand) -> list[RedisOwner]:
        found = []
        for limit_owner in limit_owners:
            found.append(self.of(limit_owner, demand))
        return found
