"""What is made of a routing table's entries and kept for as long as that table serves."""

from collections.abc import Hashable
from typing import Generic, TypeVar

from routing.table import EMPTY_TABLE, RoutingTable

Value = TypeVar("Value")


class TableCache(Generic[Value]):
    """Cleared as a whole, when the table changes or a bound is reached: nothing is kept of what is gone."""

    __slots__ = ("_bytes", "_most_bytes", "_most_entries", "_table", "_values")

    def __init__(self, most_entries: int, most_bytes: int) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._clear(EMPTY_TABLE)

    def get(self, table: RoutingTable, key: Hashable) -> Value | None:
        return self._values.get(key) if table is self._table else None

    def put(self, table: RoutingTable, key: Hashable, value: Value, size: int) -> Value:
        """`size`: about how many bytes the key and the value take."""
        if table is not self._table:
            if table.version < self._table.version:
                return value  # of a call that came before an edit: those after it are more
            self._clear(table)
        if len(self._values) >= self._most_entries or self._bytes + size > self._most_bytes:
            self._clear(table)
        self._values[key] = value
        self._bytes += size
        return value

    def _clear(self, table: RoutingTable) -> None:
        self._table = table
        self._values: dict[Hashable, Value] = {}
        self._bytes = 0
