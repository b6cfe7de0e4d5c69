"""Fits a planned row to its model. What can't be taken as it stands becomes the stricter neighbour.

A setting that guards something (a limit, a budget, an expiry, a list of what is allowed) and has no such
neighbour closes its row: it is loaded disabled. Any other setting is brought into its range, or left out.
"""

from collections.abc import Iterator
from decimal import ROUND_DOWN, Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

from routing.config.plan import Credential, PlannedRow
from routing.config.report import Notes
from routing.config.values import Bad
from routing.models import RouteTarget

LIMITS = ("rpm", "tpm", "parallel")
_GUARDS = {
    *LIMITS,
    "budget_usd",
    "expires_at",
    "enabled",
    "max_messages",
    "restricted",
    "team",
    "allowed_routes",
}
_STRICTEST = {"budget_period": "total", "content_log": "never"}
_LARGEST_LIMIT = 2**31 - 1
_MEND = "correct the value and load the file again: then it is enabled"


def settle(row: PlannedRow, model: type[models.Model], what: str, notes: Notes) -> None:
    for name, value in list(row.values.items()):
        field = _field(model, name)
        if field is not None and value is not None and not isinstance(value, Credential):
            found = _fitted(row, field, value, notes)
            if isinstance(found, Bad):
                del row.values[name]
                row.bad[name] = found
            else:
                row.values[name] = found
    for name, more in list(row.additions.items()):
        if (field := _field(model, name)) is not None:
            row.additions[name] = _fitted(row, field, more, notes)
            if isinstance(row.additions[name], Bad):
                row.bad[name] = row.additions.pop(name)
    for name, bad in row.bad.items():
        _without(row, name, bad, model, what, notes)
    row.bad.clear()
    if row.closed and _field(model, "enabled") is not None:
        row.values["enabled"] = False


def _field(model: type[models.Model], name: str) -> Any:
    fields = (field for field in model._meta.concrete_fields if not field.is_relation)
    return next((field for field in fields if field.name == name), None)


def _without(row: PlannedRow, name: str, bad: Bad, model: Any, what: str, notes: Notes) -> None:
    place = row.at(name)
    if name in _GUARDS or (name == "tags" and model is RouteTarget):
        row.closed = True
        notes.say(place, f"{bad.reason}; {what} is loaded disabled", _MEND)
    elif name in _STRICTEST:
        row.values[name] = _STRICTEST[name]
        notes.say(place, f"{bad.reason}; it counts as {_STRICTEST[name]}, the strictest", bad.remedy)
    else:
        notes.say(place, f"{bad.reason}; this setting is left out", bad.remedy)


def _fitted(row: PlannedRow, field: Any, value: Any, notes: Notes) -> Any:
    """The value that the model takes, or a Bad."""
    place = row.at(field.name)
    if isinstance(field, models.IntegerField | models.FloatField | models.DecimalField):
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            return Bad("allowed is a number")
        number = _in_range(field, Decimal(str(value)), place, notes)
        return number if isinstance(number, Bad) else _as_stored(field, number, place, notes)
    if isinstance(field, models.JSONField):
        return _parts(field, value, place, notes)
    return _cleaned(field, value)


def _in_range(field: Any, number: Decimal, place: str, notes: Notes) -> Any:
    if field.name in (*LIMITS, "max_messages") and number < 1:
        return Bad(f"{number} refuses everything", "write 1 or more")
    if field.name == "budget_usd" and number < 0:
        return Bad(f"{number} is below 0", "write 0 or more")
    low, high = bounds(field)
    if low is None and number < 0:
        return Bad(f"{number} is below 0", "write 0 or more")
    fitted = number if low is None else min(max(number, low), high)
    if fitted != number:
        notes.say(
            place,
            f"{number} is out of range; {fitted:f} is taken",
            f"write {low:f} to {high:f}",
        )
    return fitted


def bounds(field: Any) -> tuple[Any, Any]:
    """What the model's own constraint allows, (None, None) where it has none."""
    if field.name in LIMITS:
        return Decimal(1), Decimal(_LARGEST_LIMIT)
    if isinstance(field, models.DecimalField):
        return Decimal(0), Decimal(10) ** (field.max_digits - field.decimal_places) - 1
    name = f"{field.model._meta.model_name}_{field.name}_range"
    constraint = next((one for one in field.model._meta.constraints if one.name == name), None)
    if constraint is None:
        return None, None
    found = dict(_leaves(constraint.condition))
    return Decimal(str(found[f"{field.name}__gte"])), Decimal(str(found[f"{field.name}__lte"]))


def _leaves(condition: Any) -> Iterator[tuple[str, Any]]:
    for child in condition.children:
        if isinstance(child, models.Q):
            yield from _leaves(child)
        else:
            yield child


def _as_stored(field: Any, number: Decimal, place: str, notes: Notes) -> Any:
    if isinstance(field, models.FloatField):
        return float(number)
    if isinstance(field, models.IntegerField):
        if number != int(number):
            notes.say(place, f"{number} is no whole number; {int(number)} is taken", "write a whole number")
        return int(number)
    step = Decimal(1).scaleb(-field.decimal_places)
    if number == number.quantize(step, rounding=ROUND_DOWN):
        return number
    notes.say(
        place,
        f"has more than {field.decimal_places} decimals; the rest is cut off",
        f"write it with {field.decimal_places} decimals",
    )
    return number.quantize(step, rounding=ROUND_DOWN)


def _parts(field: Any, value: Any, place: str, notes: Notes) -> Any:
    """Of a list or mapping, the parts that are right."""
    whole = _cleaned(field, value)
    if not isinstance(whole, Bad) or not isinstance(value, list | dict) or not value:
        return whole
    kept: Any
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if _is_part(field, {name: part}, place, notes)}
    else:
        different = list(dict.fromkeys(item for item in value if isinstance(item, str)))
        kept = [item for item in different if _is_part(field, [item], place, notes)]
    return kept or whole


def _is_part(field: Any, part: Any, place: str, notes: Notes) -> bool:
    found = _cleaned(field, part)
    if isinstance(found, Bad):
        notes.say(place, f"{found.reason} That part is left out", found.remedy)
    return not isinstance(found, Bad)


def _cleaned(field: Any, value: Any) -> Any:
    try:
        return field.clean(value, None)
    except ValidationError as error:
        return Bad(" ".join(error.messages), "write what is allowed")
