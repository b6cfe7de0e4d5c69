"""Owners that a call holds something of: made once for all calls that hold of the same ones."""

import msgspec

from proxy.admission.redis.owners import RedisOwner
from proxy.admission.redis.scripts import Record

SHARED, OWN = 1, 2
"""Which of a call's two buckets has its tokens: that of its shared limits, or of its candidate's own."""


class Recent:
    """Requests of the last minute, in case that Redis forgets them or never heard of them."""

    __slots__ = ("at", "full_at", "owners", "reported", "requests", "tokens")

    def __init__(self, now: float, full_at: float, owners: list[RedisOwner], *, reported: bool) -> None:
        self.at = now  # of the last of them
        self.full_at = full_at  # then the next ones are kept apart
        self.owners = owners
        self.requests = 0
        self.tokens = 0
        self.reported = reported  # whether Redis knows


class Holds:
    """The shared owners, and those of one candidate."""

    __slots__ = ("budgeted", "counted", "leased", "own", "owners", "recent", "text")

    def __init__(self, shared: list[RedisOwner], own: list[RedisOwner]) -> None:
        self.own = own
        self.owners = shared + own
        self.counted = [owner for owner in self.owners if owner.counted]  # per minute
        self.budgeted = any(owner.period is not None for owner in self.owners)
        self.recent: Recent | None = None  # the newest
        settled = [owner.to_settle(SHARED) for owner in shared] + [owner.to_settle(OWN) for owner in own]
        rows = [row for row in settled if row is not None]
        self.leased = any("parallel" in row or "period" in row for row in rows)
        self.text = msgspec.json.encode(rows).decode() if rows else ""  # cmsgpack knows no bytes

    def ended(
        self, call: str, cost: int, bucket: int = 0, own_bucket: int = 0, difference: int = 0
    ) -> Record | None:
        """`difference`: of the tokens that were counted in those buckets."""
        return ("S", call, self.text, cost, bucket, own_bucket, difference) if self.text else None

    def goes_on(self, call: str, amount: int) -> Record | None:
        """Renews the lease of what is held; also for a Redis that has forgotten it."""
        return ("H", call, self.text, amount) if self.leased else None


NO_HOLDS = Holds([], [])
