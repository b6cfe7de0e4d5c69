from collections.abc import Sequence

import msgspec

from routing.strategies.base import Load, Pick, Strategy, ascending
from routing.table import TargetEntry

EXPLORE = 0.05  # share of orders that measure another target than the fastest
HOLD = 0.005  # seconds for which an order may serve again: so soon, means hardly change
MOST_HELD = 1000  # orders; tables that serve no more are forgotten with them


class Held(msgspec.Struct):
    order: list[TargetEntry]
    until: float  # monotonic seconds


class LowestLatency(Strategy):
    name = "lowest_latency"
    label = "Lowest latency: the fastest lately"
    help = (
        "The target with the lowest moving mean: time to the first byte for streams, to the whole answer "
        "for others. One request in 20 goes to the target that was measured longest ago, so that one "
        "that has become faster is noticed; under heavy load fewer do, about ten a second."
    )

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], Held] = {}  # by whether streams are asked for, and the targets

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        asked = (pick.stream, *targets)
        held = self._held.get(asked)
        if held is not None and pick.now < held.until and not pick.dry:
            return held.order.copy()
        scores = [_score(pick.loads.of(target.id), pick) for target in targets]
        found = ascending(targets, scores)
        if len(found) > 1 and pick.dice.random() < EXPLORE:
            stalest = min(found[1:], key=lambda target: pick.loads.of(target.id).measured_at)
            found.remove(stalest)
            found.insert(0, stalest)
        elif not pick.dry and all(score >= 0 for score in scores):
            self._hold(asked, Held(found.copy(), pick.now + HOLD))
        return found

    def _hold(self, asked: tuple[object, ...], held: Held) -> None:
        if len(self._held) >= MOST_HELD:
            self._held.clear()
        self._held[asked] = held

    def note(self, target: TargetEntry, pick: Pick) -> str:
        mean, what = _mean(pick.loads.of(target.id), pick)
        return f"{what}: not measured yet" if mean is None else f"{what} after {mean:,.0f} ms on average"


def _mean(load: Load, pick: Pick) -> tuple[float | None, str]:
    return (load.ttft_ms, "first byte") if pick.stream else (load.total_ms, "whole answer")


def _score(load: Load, pick: Pick) -> float:
    """A target without a measurement gets one request at once; until that ends it is the last."""
    mean, _ = _mean(load, pick)
    if mean is not None:
        return mean
    return -1.0 if not load.in_flight else 1e12 + load.in_flight
