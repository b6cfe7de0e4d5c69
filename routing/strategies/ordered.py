from collections.abc import Sequence

from routing.strategies.base import Pick, Strategy
from routing.table import TargetEntry


class Ordered(Strategy):
    name = "ordered"
    label = "Ordered: always the first that works"
    help = (
        "Lowest priority number first; among equals the heavier weight, then the older target. "
        "All traffic goes to the first target that is available; the others are its stand-ins."
    )

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        return list(targets)  # the table has them in this order

    def note(self, target: TargetEntry, pick: Pick) -> str:
        return f"priority {target.priority}, weight {target.weight}"
