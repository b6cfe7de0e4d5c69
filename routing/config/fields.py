"""A model's configurable fields, between a database row and a file."""

from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from typing import Any

from django.db import models

from routing.config import values
from routing.config.plan import PlannedRow
from routing.config.section import Section
from routing.config.values import ABSENT

_EMPTY: tuple[Any, ...] = (None, "", [], {})


def config_fields(model: type[models.Model], identity: str = "") -> Iterator[models.Field]:
    """The fields that an admin may edit; relations and the row's own name are written elsewhere."""
    for field in model._meta.concrete_fields:
        if field.editable and not field.primary_key and not field.is_relation and field.name != identity:
            yield field


def read_fields(section: Section, row: PlannedRow, model: type[models.Model], identity: str = "") -> None:
    for field in config_fields(model, identity):
        if not section.is_null(field.name):
            row.take(field.name, section, field.name, _conversion(field))
        elif field.null:
            row.say(field.name, None, section.at(field.name))
        else:
            row.bad[field.name] = values.Bad("needs a value", "write one, or take the key out")
            row.paths[field.name] = section.at(field.name)


def _conversion(field: models.Field) -> values.Convert:
    match field:
        case models.BooleanField():
            return values.flag
        case models.IntegerField() | models.FloatField() | models.DecimalField():
            return values.decimal
        case models.DateTimeField():
            return values.moment
        case models.JSONField():
            return values.anything
        case _:
            return values.text


def dump_fields(row: models.Model, identity: str = "") -> dict[str, Any]:
    """The row's fields as a file holds them; empty ones that are empty by default are left out."""
    found = {}
    for field in config_fields(type(row), identity):
        value = getattr(row, field.name)
        if value not in _EMPTY or field.get_default() not in _EMPTY:
            found[field.name] = _plain(field, value)
    return found


def _plain(field: models.Field, value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f")
    if isinstance(field, models.DateTimeField) and value is not None:
        return value.astimezone(UTC).isoformat()
    return value


def complete(row: PlannedRow, model: type[models.Model], identity: str = "") -> None:
    """What the file leaves out gets the model's default."""
    for field in config_fields(model, identity):
        if row.values.get(field.name, ABSENT) is ABSENT and field.name not in row.kept:
            row.say(field.name, field.get_default(), row.path)
    row.initial.clear()
    row.additions.clear()
