"""Rows that can't be compiled are left out and named; none takes the others with it."""

from collections.abc import Callable
from typing import Any, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet

from routing.credentials import CredentialUnreadable
from routing.table import Fault

Row = TypeVar("Row", bound=Model)
Made = TypeVar("Made")

ROW_FAULTS = (
    CredentialUnreadable,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What nonsense in a row raises where it is read; never an error of the database itself."""


class Faults:
    """Of one compilation."""

    def __init__(self) -> None:
        self._found: dict[tuple[type[Model], Any], Fault] = {}

    def all(self) -> tuple[Fault, ...]:
        return tuple(self._found.values())

    def of(self, model: type[Model]) -> dict[Any, Fault]:
        """By primary key."""
        return {pk: fault for (kind, pk), fault in self._found.items() if kind is model}

    def read(self, rows: QuerySet[Row]) -> list[Row]:
        """Those that can be read: one by one where a column of one holds what its field can't take."""
        try:
            return list(rows)
        except ROW_FAULTS:
            ids = list(rows.order_by().values_list("pk", flat=True))
            return [row for pk in ids if (row := self._read_one(rows, pk)) is not None]

    def _read_one(self, rows: QuerySet[Row], pk: Any) -> Row | None:
        try:
            return rows.get(pk=pk)
        except ROW_FAULTS as error:
            kind = str(rows.model._meta.verbose_name)
            self._found[rows.model, pk] = Fault(kind, _name(rows.model, pk), reason(None, error))
            return None

    def made(self, row: Row, make: Callable[..., Made], *others: Any) -> Made | None:
        """make(row, *others); None where the row is not what it must be."""
        try:
            return make(row, *others)
        except ROW_FAULTS as error:
            fault = Fault(str(row._meta.verbose_name), str(row), reason(row, error))
            self._found[type(row), row.pk] = fault
            return None


def _name(model: type[Model], pk: Any) -> str:
    fields = {field.name for field in model._meta.fields}
    called = next((name for name in ("slug", "name", "upstream_model") if name in fields), "pk")
    return str(model._default_manager.filter(pk=pk).values_list(called, flat=True).first())


def reason(row: Model | None, error: Exception) -> str:
    """Names fields and never what they hold, which may be a credential."""
    if isinstance(error, CredentialUnreadable):
        return str(error)
    names = _wrong_fields(row) if row is not None else ""
    return f"What is stored can't be read ({names or type(error).__name__}): an admin must save it anew."


def _wrong_fields(row: Model) -> str:
    relations = {field.name for field in row._meta.fields if field.is_relation}  # checking these would query
    try:
        row.clean_fields(exclude=relations)
    except ValidationError as error:
        return ", ".join(error.message_dict)
    except ROW_FAULTS:
        return ""
    return ""


def texts(value: Any) -> list[str]:
    """A JSON list of texts. Raises TypeError: a text by itself would pass for a list of its letters."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("not a list of texts")
    return value


def texts_by_name(value: Any) -> dict[str, str]:
    """A JSON object of texts. Raises TypeError."""
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise TypeError("not an object of texts")
    return value
