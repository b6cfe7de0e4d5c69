"""How a call is put to Redis: all but a few words are the same for every call of the same owners."""

from collections.abc import Iterable, Sequence

import hiredis

from proxy.admission.base import Claim, Need, Option, headroom_claim
from proxy.admission.redis_held import Held
from proxy.admission.redis_ledger import packed
from proxy.admission.redis_line import ADMIT, Script
from proxy.admission.redis_owners import RedisOwner, RedisOwners
from routing.table import Limits

NO_LIMITS = Limits()
NEW = UNKNOWN = -1
MOST_KEPT = 4096  # a few kilobytes each


class PackedScript:
    """A call of a script whose words are packed once, but for the last one.

    Source of the format: the Redis serialization protocol, RESP.
    """

    __slots__ = ("_by_sha", "_fixed", "_script")

    def __init__(self, script: Script, keys: list[str], word: bytes) -> None:
        self._script = script
        self._fixed = (len(keys), *keys, word)
        self._by_sha = self._packed("EVALSHA", script.sha)

    def by_sha(self, last: bytes) -> bytes:
        return b"%b$%d\r\n%b\r\n" % (self._by_sha, len(last), last)

    def whole(self, last: bytes) -> bytes:
        """For a Redis that doesn't know the script."""
        return b"%b$%d\r\n%b\r\n" % (self._packed("EVAL", self._script.text), len(last), last)

    def _packed(self, *command: str) -> bytes:
        words = (*command, *self._fixed)
        found = hiredis.pack_command(words)  # type: ignore[arg-type] # its stub says one word
        return b"*%d\r\n" % (len(words) + 1) + found.partition(b"\r\n")[2]


def asked_of(need: Need, bucket: int, options: Iterable[Option]) -> bytes:
    """The last word, of one call. `bucket`: where the old option's tokens were counted, or NEW."""
    words: list[str | int] = [need.id, need.tokens, bucket]
    for option in options:
        cost = option.cost_nano
        words.append(UNKNOWN if cost is None else cost)
    return packed(words)


class Ask:
    """Of the limits of `shared` and of the first of `options` that has room; `old` is let go first."""

    __slots__ = (
        "_all",
        "_held",
        "kept",
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
        self.kept: object = None  # what its place in a cache depends on
        self._held: list[Held | None] = [None] * len(options)
        self._all: Held | None = None
        fixed = {
            "lease": lease_ms,
            "shared": len(shared),
            "old": len(old),
            "options": [len(option) for option in options],
            "limits": [owner.limits for owner in self.owners],
        }
        self.script = PackedScript(ADMIT, [owner.base for owner in self.owners], packed(fixed))

    def held(self, option: int) -> Held:
        found = self._held[option]
        if found is None:
            found = self._held[option] = Held(self.shared, self.options[option])
        return found

    def all_held(self) -> Held:
        """Of all options, each owner once: whatever a call of which nothing was heard may hold."""
        if self._all is None:
            own = dict.fromkeys(owner for option in self.options for owner in option)
            self._all = Held(self.shared, [owner for owner in own if owner not in self.shared])
        return self._all


class Asks:
    """Keeps them by their claims, for as long as those live and their periods last."""

    def __init__(self, owners: RedisOwners, lease_ms: int) -> None:
        self._owners = owners
        self._lease_ms = lease_ms
        self._known: dict[tuple[int, ...], Ask] = {}

    def of(self, shared: Sequence[Claim], options: Sequence[Option], need: Need) -> Ask:
        ids = [*map(id, shared)]
        for option in options:
            ids.append(id(option.claims))
        place = tuple(ids)
        found = self._known.get(place)
        if found is None or not found.since <= need.at < found.until:
            if len(self._known) > MOST_KEPT:
                self._known.clear()
            found = self._known[place] = self.made(shared, [], options, need)
            found.kept = (*shared, *options)  # as long as they live, no others have their ids
        return found

    def made(
        self, shared: Sequence[Claim], old: list[RedisOwner], options: Sequence[Option], need: Need
    ) -> Ask:
        of = self._owners.all_of
        return Ask(of(shared, need), old, [of(option.claims, need) for option in options], self._lease_ms)
