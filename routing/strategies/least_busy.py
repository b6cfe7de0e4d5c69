from collections.abc import Sequence

from routing.strategies.base import Pick, Strategy, ascending
from routing.table import TargetEntry


class LeastBusy(Strategy):
    name = "least_busy"
    label = "Least busy: fewest open requests per weight"
    help = (
        "The target with the fewest requests in flight, divided by its weight: "
        "a target of weight 2 carries twice as many. Each web process counts its own."
    )

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        return ascending(targets, [self._score(target, pick) for target in targets])

    def _score(self, target: TargetEntry, pick: Pick) -> float:
        # One more, as if it were sent there; the dice only break ties.
        busy = pick.loads.of(target.id).in_flight + 1
        return busy / (target.weight or 1) + pick.dice.random() * 1e-6

    def note(self, target: TargetEntry, pick: Pick) -> str:
        return f"{pick.loads.of(target.id).in_flight} in flight, weight {target.weight}"
