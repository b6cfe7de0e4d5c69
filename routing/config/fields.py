"""A model's configurable fields, between a database row and a file."""

from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal
from typing import Any

from django.db import models

from routing.config.plan import PlannedRow
from routing.config.section import ABSENT, Section

_EMPTY: tuple[Any, ...] = (None, "", [], {})


def config_fields(model: type[models.Model], identity: str = "") -> Iterator[models.Field]:
    """The fields that an admin may edit; relations and the row's own name are written elsewhere."""
    for field in model._meta.concrete_fields:
        if field.editable and not field.primary_key and not field.is_relation and field.name != identity:
            yield field


def read_fields(section: Section, row: PlannedRow, model: type[models.Model], identity: str = "") -> None:
    for field in config_fields(model, identity):
        row.say(field.name, _read(section, field), section.at(field.name))


def _read(section: Section, field: models.Field) -> Any:
    name = field.name
    if section.is_null(name):
        return None if field.null else section.problem(name, "needs a value")
    match field:
        case models.BooleanField():
            return section.flag(name)
        case models.IntegerField():
            return section.whole(name)
        case models.FloatField():
            return section.number(name)
        case models.DecimalField():
            return section.decimal(name)
        case models.DateTimeField():
            return section.moment(name)
        case models.JSONField():
            return section.tree(name)
        case _:
            return section.text(name)


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
        if row.values.get(field.name, ABSENT) is ABSENT:
            row.say(field.name, field.get_default(), row.path)
    row.initial.clear()
    row.additions.clear()
    row.floors.clear()
