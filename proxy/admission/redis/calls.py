"""How a call asks Redis for admission: all but a few words are the same for all calls of the same owners."""

from collections.abc import Iterable, Sequence

from proxy.admission.base import Candidate, Demand, LimitOwner, rate_limited_owner
from proxy.admission.redis.holds import Holds
from proxy.admission.redis.owners import RedisOwner, RedisOwners
from proxy.admission.redis.scripts import ADMIT, PackedScript, packed
from routing.table import Limits
from routing.table_cache import TableCache

NO_LIMITS = Limits()
NEW = UNKNOWN = -1
MOST_KEPT, MOST_BYTES = 4096, 32 * 1024 * 1024
CALL_BYTES, HOLDS_BYTES = 1_500, 500  # of one, and of each owner in it


def packed_demand(demand: Demand, bucket: int, candidates: Iterable[Candidate]) -> bytes:
    """The last word, of one call. `bucket`: where the old candidate's tokens were counted, or NEW."""
    words: list[str | int] = [demand.id, demand.tokens, bucket]
    for candidate in candidates:
        cost = candidate.cost_nano
        words.append(UNKNOWN if cost is None else cost)
    return packed(words)


class AdmitCall:
    """Of the limits of `shared` and of the first of `candidates` that has room; `old` is let go first."""

    __slots__ = (
        "_all",
        "_holds",
        "candidates",
        "depends_on",
        "owners",
        "rates",
        "script",
        "shared",
        "since",
        "until",
    )

    def __init__(
        self,
        shared: list[RedisOwner],
        old: list[RedisOwner],
        candidates: list[list[RedisOwner]],
        lease_ms: int,
    ) -> None:
        self.shared = shared
        self.candidates = candidates
        self.owners = [*shared, *old, *(owner for candidate in candidates for owner in candidate)]
        self.since = max((owner.since for owner in self.owners), default=0.0)
        self.until = min((owner.until for owner in self.owners), default=0.0)
        limit_owner = rate_limited_owner([owner.limit_owner for owner in shared])
        self.rates = (
            NO_LIMITS if limit_owner is None else limit_owner.limits
        )  # that the x-ratelimit headers speak of
        self.depends_on: object = None  # what its place in a cache depends on
        self._holds: list[Holds | None] = [None] * len(candidates)
        self._all: Holds | None = None
        fixed = {
            "lease": lease_ms,
            "shared": len(shared),
            "old": len(old),
            "candidates": [len(candidate) for candidate in candidates],
            "limits": [owner.limits for owner in self.owners],
        }
        self.script = PackedScript(ADMIT, [owner.base for owner in self.owners], packed(fixed))

    def holds_of(self, candidate: int) -> Holds:
        found = self._holds[candidate]
        if found is None:
            found = self._holds[candidate] = Holds(self.shared, self.candidates[candidate])
        return found

    def all_holds(self) -> Holds:
        """Of all candidates, each owner once: whatever a call of which nothing was heard may hold."""
        if self._all is None:
            own = dict.fromkeys(owner for candidate in self.candidates for owner in candidate)
            self._all = Holds(self.shared, [owner for owner in own if owner not in self.shared])
        return self._all


class AdmitCalls:
    """Keeps them by the owners of limits, for as long as those live and their periods last."""

    def __init__(self, owners: RedisOwners, lease_ms: int) -> None:
        self._owners = owners
        self._lease_ms = lease_ms
        self._known: TableCache[AdmitCall] = TableCache(MOST_KEPT, MOST_BYTES)

    def of(self, shared: Sequence[LimitOwner], candidates: Sequence[Candidate], demand: Demand) -> AdmitCall:
        ids = [*map(id, shared)]
        for candidate in candidates:
            ids.append(id(candidate.limit_owners))
        place = tuple(ids)
        found = self._known.get(demand.table, place)
        if found is None or not found.since <= demand.at < found.until:
            made = self.make(shared, [], candidates, demand)
            made.depends_on = (*shared, *candidates)  # as long as they live, no others have their ids
            size = CALL_BYTES + made.script.size + HOLDS_BYTES * len(made.owners)
            found = self._known.put(demand.table, place, made, size)
        return found

    def make(
        self,
        shared: Sequence[LimitOwner],
        old: list[RedisOwner],
        candidates: Sequence[Candidate],
        demand: Demand,
    ) -> AdmitCall:
        of = self._owners.all_of
        return AdmitCall(
            of(shared, demand),
            old,
            [of(candidate.limit_owners, demand) for candidate in candidates],
            self._lease_ms,
        )
