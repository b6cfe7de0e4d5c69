"""What a strategy is, and all that it may know of a request and of the targets' state."""

import random
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import msgspec

from routing.table import TargetEntry


class Load(Protocol):
    """The live state of one target. Means are exponentially weighted, in milliseconds, of successes only."""

    @property
    def in_flight(self) -> int: ...

    @property
    def ttft_ms(self) -> float | None:
        """Streams, until the first bytes. None: not measured yet."""

    @property
    def total_ms(self) -> float | None:
        """Whole answers. None: not measured yet."""

    @property
    def measured_at(self) -> float:
        """Monotonic seconds of the last measurement."""


class Loads(Protocol):
    def of(self, target_id: int, /) -> Load: ...


class Pick(msgspec.Struct, frozen=True):
    """One request, as strategies see it."""

    stream: bool
    session: Callable[[], str]  # asked only where a strategy needs it; "" for none
    loads: Loads
    dice: random.Random
    now: float  # monotonic seconds
    dry: bool = False  # an explanation: nothing may be remembered


class Strategy:
    """One instance per gateway, so it may remember; everything runs on one event loop."""

    name: ClassVar[str]
    label: ClassVar[str]
    help: ClassVar[str]
    remembers: ClassVar[bool] = False  # asked for an order even where there is one target only

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        """Targets of one level, best first. They come by falling weight, then by age."""
        raise NotImplementedError

    def note(self, target: TargetEntry, pick: Pick) -> str:
        """What the order went by, for an admin."""
        return f"weight {target.weight}"

    def roll(self, pick: Pick) -> float:
        """0 to 1: where the request falls when a percentage of the traffic is diverted."""
        return pick.dice.random()


def in_levels(targets: Sequence[TargetEntry], strategy: Strategy, pick: Pick) -> list[TargetEntry]:
    """Orders each level by itself. `targets` come by rank: priority, weight 0 after the others."""
    if not targets:
        return []
    first = targets[0].rank
    if first == targets[-1].rank:
        return _ordered(targets, strategy, pick)
    found: list[TargetEntry] = []
    start = 0
    for end in range(1, len(targets) + 1):
        if end == len(targets) or targets[end].rank != targets[start].rank:
            found += _ordered(targets[start:end], strategy, pick)
            start = end
    return found


def _ordered(level: Sequence[TargetEntry], strategy: Strategy, pick: Pick) -> list[TargetEntry]:
    if len(level) == 1 and not strategy.remembers:
        return list(level)
    return strategy.order(level, pick)


def ascending(targets: Sequence[TargetEntry], scores: list[float]) -> list[TargetEntry]:
    """Lowest score first; stable."""
    if len(targets) == 2:
        return list(targets) if scores[0] <= scores[1] else [targets[1], targets[0]]
    return [targets[index] for index in sorted(range(len(targets)), key=scores.__getitem__)]
