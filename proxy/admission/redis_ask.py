"""How a call is put to Redis: all but a few words are the same for every call of the same owners."""

from collections.abc import Sequence

import hiredis

from proxy.admission.base import Claim, Need, Option, headroom_claim
from proxy.admission.redis_line import ADMIT, Script
from proxy.admission.redis_link import Word
from proxy.admission.redis_owners import RedisOwner, RedisOwners
from routing.table import Limits

NO_LIMITS = Limits()
MOST_KEPT = 4096  # about a kilobyte each


class PackedScript:
    """A call of a script whose first words are packed once; `more` words follow with each call.

    Source of the format: the Redis serialization protocol, RESP.
    """

    __slots__ = ("_fixed", "_more", "_script", "by_sha")

    def __init__(self, script: Script, keys: list[str], words: list[Word], more: int) -> None:
        self._script = script
        self._fixed = (len(keys), *keys, *words)
        self._more = more
        self.by_sha = self._packed("EVALSHA", script.sha)

    def whole(self) -> bytes:
        """For a Redis that doesn't know the script."""
        return self._packed("EVAL", self._script.text)

    def _packed(self, *command: str) -> bytes:
        words = (*command, *self._fixed)
        packed = hiredis.pack_command(words)  # type: ignore[arg-type] # its stub says one word
        return b"*%d\r\n" % (len(words) + self._more) + packed.partition(b"\r\n")[2]


class Ask:
    """Of the limits of `shared` and of the first of `options` that has room; `old` is let go first."""

    __slots__ = (
        "_counted",
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
        self._counted: dict[int, list[RedisOwner]] = {}
        self.kept: object = None  # what its place in a cache depends on
        words: list[Word] = [lease_ms, len(shared), len(old), len(options), *map(len, options)]
        for owner in self.owners:
            words += owner.limits
        self.script = PackedScript(ADMIT, [owner.base for owner in self.owners], words, 3 + len(options))

    def words(self, call: str, tokens: int, bucket: Word, costs: Sequence[Option]) -> bytes:
        """The rest, of one call. `bucket`: where tokens of `old` were counted; blank for a new call."""
        number, place = b"%d" % tokens, str(bucket).encode()
        packed = b"$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            len(call),
            call.encode("ascii"),
            len(number),
            number,
            len(place),
            place,
        )
        for option in costs:
            cost = b"" if option.cost_nano is None else b"%d" % option.cost_nano
            packed += b"$%d\r\n%b\r\n" % (len(cost), cost)
        return packed

    def counted(self, option: int) -> list[RedisOwner]:
        """The owners whose requests or tokens are counted per minute, where this option is held."""
        found = self._counted.get(option)
        if found is None:
            held = self.shared + self.options[option]
            found = self._counted[option] = [owner for owner in held if owner.counted]
        return found


class Asks:
    """Keeps them by their claims, for as long as those live and their periods last."""

    def __init__(self, owners: RedisOwners, lease_ms: int) -> None:
        self._owners = owners
        self._lease_ms = lease_ms
        self._known: dict[tuple[int, ...], Ask] = {}

    def of(self, shared: Sequence[Claim], options: Sequence[Option], need: Need) -> Ask:
        place = (*[id(claim) for claim in shared], *[id(option.claims) for option in options])
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
