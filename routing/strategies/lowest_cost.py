from collections.abc import Sequence

from routing.strategies.base import Pick, Strategy, ascending
from routing.table import TargetEntry

PROMPT_PARTS, ANSWER_PARTS = 3, 1
"""What the two prices count for: applications send about three times as many tokens as they get."""


class LowestCost(Strategy):
    name = "lowest_cost"
    label = "Lowest cost: the cheapest price per token"
    help = (
        "The target with the lowest price, prompt tokens counted three times and answer tokens once. "
        "Equal prices share by chance; a target without a known price comes last."
    )

    def order(self, targets: Sequence[TargetEntry], pick: Pick) -> list[TargetEntry]:
        # Prices are whole nano-USD: a fraction only breaks ties.
        return ascending(targets, [_price(target) + pick.dice.random() * 0.5 for target in targets])

    def note(self, target: TargetEntry, pick: Pick) -> str:
        if target.price is None:
            return "price unknown"
        price = target.price
        return f"USD {price.input / 1e9:g} in, {price.output / 1e9:g} out, per million tokens"


def _price(target: TargetEntry) -> float:
    if target.price is None:
        return float("inf")
    return PROMPT_PARTS * target.price.input + ANSWER_PARTS * target.price.output
