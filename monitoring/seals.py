"""The checksum of a row: the same from a record of the journal and from the row as it is read back."""

import zlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from monitoring.models import RequestLog
from proxy.journal.records import Closed

COLUMNS = tuple(field.attname for field in RequestLog._meta.concrete_fields)
_FLOATS = ("total_ms", "overhead_ms", "ttft_ms")
_FLOAT_PLACES = tuple(COLUMNS.index(name) for name in _FLOATS)
_RECEIVED_AT = COLUMNS.index("received_at")
values_of = attrgetter(*(name if name != "received_at" else "received_at_ns" for name in COLUMNS))
"""A call's values in the order of COLUMNS, as the journal has them."""

_encode = msgspec.json.Encoder(order="deterministic").encode


def checksum(facts: list[Any]) -> int:
    """CRC-32 of the row's values in the order of COLUMNS."""
    return zlib.crc32(_encode(facts))


def facts_of_call(call: Closed) -> list[Any]:
    facts = list(values_of(call))
    facts[_RECEIVED_AT] = call.received_at_ns // 1000
    for place in _FLOAT_PLACES:
        if facts[place] is not None:
            facts[place] = float(facts[place])
    return facts


def facts_of_row(row: Mapping[str, Any]) -> list[Any]:
    """`row` as from values(*COLUMNS)."""
    return [_stored_fact(column, row[column]) for column in COLUMNS]


def _stored_fact(column: str, value: Any) -> Any:
    if column == "received_at":
        seconds = int(value.replace(microsecond=0).timestamp())
        return seconds * 1_000_000 + value.microsecond
    if column == "id":
        return str(value)
    return float(value) if column in _FLOATS and value is not None else value
