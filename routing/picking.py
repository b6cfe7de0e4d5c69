"""In which order a route's targets are tried; one function per strategy."""

import random
from collections.abc import Callable, Sequence
from itertools import groupby

from routing.table import TargetEntry

Order = Callable[[Sequence[TargetEntry], random.Random], list[TargetEntry]]


def ordered(targets: Sequence[TargetEntry], dice: random.Random) -> list[TargetEntry]:
    """Lowest priority number first; among equals at random, in proportion to their weights."""
    if len(targets) == 1:
        return list(targets)
    by_priority = sorted(targets, key=lambda target: target.priority)
    return [
        target
        for _, equals in groupby(by_priority, key=lambda target: target.priority)
        for target in _weighted(list(equals), dice)
    ]


def _weighted(equals: list[TargetEntry], dice: random.Random) -> list[TargetEntry]:
    # Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): u ** (1 / weight).
    return sorted(
        equals,
        key=lambda target: dice.random() ** (1 / target.weight) if target.weight else -1,
        reverse=True,
    )


STRATEGIES: dict[str, Order] = {"ordered": ordered}


def candidates(
    targets: Sequence[TargetEntry], strategy: str, dice: random.Random
) -> tuple[list[TargetEntry], list[TargetEntry]]:
    """(targets to try in this order, targets that must not be tried because they are unhealthy).

    Unhealthy providers are tried last, and only where their setting allows it.
    """
    in_order = STRATEGIES[strategy](targets, dice)
    healthy = [target for target in in_order if not target.provider.unhealthy]
    if len(healthy) == len(in_order):
        return healthy, []
    ill = [target for target in in_order if target.provider.unhealthy]
    refused = [target for target in ill if target.provider.refuse_when_unhealthy]
    return healthy + [target for target in ill if not target.provider.refuse_when_unhealthy], refused
