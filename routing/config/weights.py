"""LiteLLM's weights are any numbers; here they are whole ones up to 1,000, in the same proportion."""

from decimal import Decimal
from math import gcd
from typing import Any

from routing.config.plan import PlannedRow, TargetId
from routing.config.report import Notes

LARGEST = 1000


def settle_weights(targets: dict[TargetId, PlannedRow], notes: Notes) -> None:
    for route in {identity.route for identity in targets}:
        rows = [row for identity, row in targets.items() if identity.route == route]
        for row in rows:
            if row.values.get("weight", 0) < 0:
                del row.values["weight"]
                notes.say(row.at("weight"), "is below 0; this setting is left out", "write 0 or more")
        if any(_is_odd(row.values.get("weight", 1)) for row in rows):
            _scale(rows, notes)


def _is_odd(weight: Any) -> bool:
    return weight != int(weight) or weight > LARGEST


def _scale(rows: list[PlannedRow], notes: Notes) -> None:
    weights = [Decimal(row.values.get("weight", 1)) for row in rows]
    places = max(0, *(-int(weight.normalize().as_tuple().exponent) for weight in weights))
    whole = [int(weight.scaleb(places)) for weight in weights]
    divisor = gcd(*whole) or 1
    whole = [weight // divisor for weight in whole]
    if (largest := max(whole)) > LARGEST:
        whole = [max(round(weight * LARGEST / largest), int(weight > 0)) for weight in whole]
        notes.say(
            rows[0].at("weight"), "the route's weights are rounded to parts of 1,000", "write smaller numbers"
        )
    for row, weight in zip(rows, whole, strict=True):
        row.say("weight", weight, row.at("weight"))
