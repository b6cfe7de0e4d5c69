from collections.abc import Sequence

from routing.strategies.base import Pick, Strategy
from routing.table import TargetEntry


class Weighted(Strategy):
    name = "weighted"
    label = "Weighted: shares in proportion to the weights"
    help = (
        "Each request goes to a target of the lowest priority number at random, in proportion to the weights."
    )

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        """Each place is drawn among those that are left, so a failed target's share is split fairly too."""
        left = list(targets)
        total = sum(target.weight for target in left)
        found: list[TargetEntry] = []
        while len(left) > 1:
            index = _draw(left, pick.dice.random() * total)
            total -= left[index].weight
            found.append(left.pop(index))
        return found + left


def _draw(targets: list[TargetEntry], at: float) -> int:
    for index, target in enumerate(targets):
        at -= target.weight
        if at < 0:
            return index
    return 0  # all weights are 0
