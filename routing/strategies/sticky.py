import math
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from routing.strategies.base import Pick, Strategy
from routing.table import TargetEntry

MOST_SESSIONS = 100_000  # remembered per web process, about 30 MB; the least recently seen leave first
FORGET_AFTER = 3600.0  # seconds without a request


class Sticky(Strategy):
    """Weighted rendezvous hashing, and a memory beside it.

    The hash alone moves 1/n of the sessions when an n-th target joins; remembered sessions stay.
    Source: Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005).
    """

    name = "sticky"
    label = "Sticky: a session stays on its target"
    help = (
        "All requests of a session go to the same target, for as long as that is available; sessions are "
        "shared out by weight. The session is the x-session-id header, else the body's user, else the key."
    )
    remembers = True

    def __init__(self) -> None:
        self._homes: OrderedDict[tuple[bytes, int], tuple[int, float]] = OrderedDict()

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        session = pick.session()
        found = _by_hash(targets, session)
        place = (_short(session), targets[0].rank)
        home = self._home(place, pick.now)
        for index, target in enumerate(found):
            if target.id == home:
                found.insert(0, found.pop(index))
                break
        if not pick.dry:
            self._remember(place, found[0].id, pick.now)
        return found

    def note(self, target: TargetEntry, pick: Pick) -> str:
        home = self._home((_short(pick.session()), target.rank), pick.now)
        return "the session's target" if target.id == home else f"weight {target.weight}"

    def roll(self, pick: Pick) -> float:
        """By the session: one that a canary gets stays there."""
        return _fraction("roll", pick.session())

    def _home(self, place: tuple[bytes, int], now: float) -> int | None:
        target_id, seen = self._homes.get(place, (None, 0.0))
        return target_id if now - seen < FORGET_AFTER else None

    def _remember(self, place: tuple[bytes, int], target_id: int, now: float) -> None:
        self._homes[place] = (target_id, now)
        self._homes.move_to_end(place)
        if len(self._homes) > MOST_SESSIONS:
            self._homes.popitem(last=False)


def _short(session: str) -> bytes:
    """Of one length, whatever the caller sends."""
    return blake2b(session.encode(), digest_size=16).digest()


def _by_hash(targets: Sequence[TargetEntry], session: str) -> list[TargetEntry]:
    if len(targets) == 1:
        return list(targets)
    scores = [(target.weight or 1) / -math.log(_fraction(str(target.id), session)) for target in targets]
    return [targets[index] for index in sorted(range(len(targets)), key=scores.__getitem__, reverse=True)]


def _fraction(salt: str, session: str) -> float:
    """Evenly spread over what lies between 0 and 1, the same in every process."""
    digest = blake2b(session.encode(), digest_size=8, key=salt.encode()[:64]).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
