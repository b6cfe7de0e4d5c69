"""How a call asks Redis for admission: all but a few words are the same for all calls of the same owners."""

from collections.abc import Iterable, Sequence

from proxy.admission.base import Claim, Need, Option, headroom_claim
from proxy.admission.redis.holds import Holds
from proxy.admission.redis.owners import RedisOwner, RedisOwners
from proxy.admission.redis.scripts import ADMIT, PackedScript, packed
from routing.table import Limits

NO_LIMITS = Limits()
NEW = UNKNOWN = -1
MOST_KEPT = 4096  # a few kilobytes each


def packed_need(need: Need, bucket: int, options: Iterable[Option]) -> bytes:
    """The last word, of one call. `bucket`: where the old option's tokens were counted, or NEW."""
    words: list[str | int] = [need.id, need.tokens, bucket]
    for option in options:
        cost = option.cost_nano
        words.append(UNKNOWN if cost is None else cost)
    return packed(words)


class AdmitCall:
    """Of the limits of `shared` and of the first of `options` that has room; `old` is let go first."""

    __slots__ = (
        "_all",
        "_holds",
        "depends_on",
        "options",
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
        options: list[list[RedisOwner]],
        lease_ms: int,
    ) -> None:
        self.shared = shared
        self.options = options
        self.owners = [*shared, *old, *(owner for option in options for owner in option)]
        self.since = max((owner.since for owner in self.owners), default=0.0)
        self.until = min((owner.until for owner in self.owners), default=0.0)
        claim = headroom_claim([owner.claim for owner in shared])
        self.rates = NO_LIMITS if claim is None else claim.limits  # that the x-ratelimit headers speak of
        self.depends_on: object = None  # what its place in a cache depends on
        self._holds: list[Holds | None] = [None] * len(options)
        self._all: Holds | None = None
        fixed = {
            "lease": lease_ms,
            "shared": len(shared),
            "old": len(old),
            "options": [len(option) for option in options],
            "limits": [owner.limits for owner in self.owners],
        }
        self.script = PackedScript(ADMIT, [owner.base for owner in self.owners], packed(fixed))

    def holds_of(self, option: int) -> Holds:
        found = self._holds[option]
        if found is None:
            found = self._holds[option] = Holds(self.shared, self.options[option])
        return found

    def all_holds(self) -> Holds:
        """Of all options, each owner once: whatever a call of which nothing was heard may hold."""
        if self._all is None:
            own = dict.fromkeys(owner for option in self.options for owner in option)
            self._all = Holds(self.shared, [owner for owner in own if owner not in self.shared])
        return self._all


class AdmitCalls:
    """Keeps them by their claims, for as long as those live and their periods last."""

    def __init__(self, owners: RedisOwners, lease_ms: int) -> None:
        self._owners = owners
        self._lease_ms = lease_ms
        self._known: dict[tuple[int, ...], AdmitCall] = {}

    def of(self, shared: Sequence[Claim], options: Sequence[Option], need: Need) -> AdmitCall:
        ids = [*map(id, shared)]
        for option in options:
            ids.append(id(option.claims))
        place = tuple(ids)
        found = self._known.get(place)
        if found is None or not found.since <= need.at < found.until:
            if len(self._known) > MOST_KEPT:
                self._known.clear()
            found = self._known[place] = self.make(shared, [], options, need)
            found.depends_on = (*shared, *options)  # as long as they live, no others have their ids
        return found

    def make(
        self, shared: Sequence[Claim], old: list[RedisOwner], options: Sequence[Option], need: Need
    ) -> AdmitCall:
        of = self._owners.all_of
        return AdmitCall(
            of(shared, need), old, [of(option.claims, need) for option in options], self._lease_ms
        )
