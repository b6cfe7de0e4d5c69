"""Limits counted in this process: for one web process without Redis."""

import time
from collections.abc import Callable, Sequence

from proxy.admission.base import Claim, Headroom, over_limit
from proxy.admission.window import Bucket, SlidingWindow

FORGET_AFTER = 4096  # owners kept before idle ones are dropped


class _Counts:
    __slots__ = ("open", "requests", "tokens")

    def __init__(self) -> None:
        self.requests = SlidingWindow()
        self.tokens = SlidingWindow()
        self.open = 0


class MemoryGrant:
    __slots__ = ("_admission", "_holds", "_tokens")

    def __init__(
        self, admission: "MemoryAdmission", holds: list[tuple[_Counts, Bucket | None]], tokens: int
    ) -> None:
        self._admission = admission
        self._holds = holds
        self._tokens = tokens

    def settle(self, tokens: int | None) -> None:
        holds, self._holds = self._holds, []
        now = self._admission.clock()
        for counts, bucket in holds:
            counts.open -= 1
            if bucket is not None and tokens is not None:
                counts.tokens.correct(bucket, tokens - self._tokens, now)


class MemoryAdmission:
    """Runs on one event loop: between check and count nothing else runs, so the two are one step."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._owners: dict[tuple[str, int], _Counts] = {}
        self._forget_at = FORGET_AFTER

    async def admit(self, claims: Sequence[Claim], tokens: int) -> MemoryGrant:
        now = self.clock()
        if len(self._owners) > self._forget_at:
            self._forget_idle(now)
        counted = [(claim, self._counts(claim)) for claim in claims]
        for claim, counts in counted:
            _check(claim, counts, tokens, now)
        holds: list[tuple[_Counts, Bucket | None]] = []
        for claim, counts in counted:
            counts.open += 1
            if claim.limits.rpm is not None:
                counts.requests.add(1, now)
            holds.append((counts, counts.tokens.add(tokens, now) if claim.limits.tpm is not None else None))
        return MemoryGrant(self, holds, tokens)

    def headroom(self, claim: Claim) -> tuple[Headroom | None, Headroom | None]:
        counts, now = self._counts(claim), self.clock()
        return (
            _headroom(counts.requests, claim.limits.rpm, now),
            _headroom(counts.tokens, claim.limits.tpm, now),
        )

    def open_calls(self, kind: str, owner: int) -> int:
        """Calls of one owner that are not settled yet."""
        counts = self._owners.get((kind, owner))
        return counts.open if counts else 0

    def _counts(self, claim: Claim) -> _Counts:
        owner = (claim.kind, claim.id)
        counts = self._owners.get(owner)
        if counts is None:
            counts = self._owners[owner] = _Counts()
        return counts

    def _forget_idle(self, now: float) -> None:
        for owner, counts in list(self._owners.items()):
            idle = not counts.requests.clears_in(now) and not counts.tokens.clears_in(now)
            if idle and not counts.open:
                del self._owners[owner]
        self._forget_at = 2 * len(self._owners) + FORGET_AFTER


def _check(claim: Claim, counts: _Counts, tokens: int, now: float) -> None:
    limits = claim.limits
    if limits.parallel is not None and counts.open >= limits.parallel:
        raise over_limit(claim, f"{limits.parallel} requests at the same time", 0)
    if limits.rpm is not None and (wait := counts.requests.wait_for(1, limits.rpm, now)):
        raise over_limit(claim, f"{limits.rpm} requests per minute", wait)
    if limits.tpm is not None and (wait := counts.tokens.wait_for(tokens, limits.tpm, now)):
        raise over_limit(claim, f"{limits.tpm} tokens per minute (this request needs up to {tokens})", wait)


def _headroom(window: SlidingWindow, limit: int | None, now: float) -> Headroom | None:
    if limit is None:
        return None
    reset = window.clears_in(now)
    return Headroom(limit=limit, remaining=max(limit - window.total, 0), reset=reset)
