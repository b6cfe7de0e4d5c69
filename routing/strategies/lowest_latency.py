from collections.abc import Sequence

from routing.strategies.base import Load, Pick, Strategy, ascending
from routing.table import TargetEntry

EXPLORE = 0.05  # share of requests that measure another target than the fastest


class LowestLatency(Strategy):
    name = "lowest_latency"
    label = "Lowest latency: the fastest lately"
    help = (
        "The target with the lowest moving mean: time to the first byte for streams, to the whole answer "
        "for others. One request in 20 goes to the target that was measured longest ago, so that one "
        "that has become faster is noticed."
    )

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        of = pick.loads.of
        scores = []
        for target in targets:
            load = of(target.id)
            mean = load.ttft_ms if pick.stream else load.total_ms
            scores.append(_unmeasured(load) if mean is None else mean)
        found = ascending(targets, scores)
        if len(found) > 1 and pick.dice.random() < EXPLORE:
            stalest = min(found[1:], key=lambda target: pick.loads.of(target.id).measured_at)
            found.remove(stalest)
            found.insert(0, stalest)
        return found

    def note(self, target: TargetEntry, pick: Pick) -> str:
        load = pick.loads.of(target.id)
        mean, what = (load.ttft_ms, "first byte") if pick.stream else (load.total_ms, "whole answer")
        return f"{what}: not measured yet" if mean is None else f"{what} after {mean:,.0f} ms on average"


def _unmeasured(load: Load) -> float:
    """A target without a measurement gets one request at once; until that ends it is the last."""
    return -1.0 if not load.in_flight else 1e12 + load.in_flight
