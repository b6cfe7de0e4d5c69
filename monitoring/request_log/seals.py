"""The checksum of a row: the same from a record of the journal and from the row as it is read back."""

import zlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import msgspec

from monitoring.request_log.models import RequestLog
from proxy.journal.records import Closed

COLUMNS = tuple(field.attname for field in RequestLog._meta.concrete_fields)
SEALED_FIRST = (
    "id",
    "received_at",
    "request_id",
    "outcome",
    "status",
    "error_code",
    "endpoint",
    "stream",
    "model",
    "key_id",
    "key_name",
    "team",
    "route",
    "target_id",
    "provider",
    "upstream_model",
    "attempts",
    "attempt_trail",
    "shadow",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "tokens_estimated",
    "cost_nano_usd",
    "total_ms",
    "overhead_ms",
    "ttft_ms",
    "tags",
    "client_info",
)
"""Columns that every seal is made from. Later ones count, by name, where they are not at their default:
so the seals of rows from before such a column still hold."""

_DEFAULTS = {
    field.attname: field.get_default()
    for field in RequestLog._meta.concrete_fields
    if field.attname not in SEALED_FIRST
}
_FLOATS = ("total_ms", "overhead_ms", "ttft_ms")
_FLOAT_PLACES = tuple(SEALED_FIRST.index(name) for name in _FLOATS)
_RECEIVED_AT = SEALED_FIRST.index("received_at")
_first_of = attrgetter(*(name if name != "received_at" else "received_at_ns" for name in SEALED_FIRST))
_later_of = attrgetter(*_DEFAULTS)
values_of = attrgetter(*(name if name != "received_at" else "received_at_ns" for name in COLUMNS))
"""A call's values in the order of COLUMNS, as the journal has them."""

_encode = msgspec.json.Encoder(order="deterministic").encode


def checksum(facts: list[Any]) -> int:
    """CRC-32 of the row's values, as facts_of_call() and facts_of_row() put them in order."""
    return zlib.crc32(_encode(facts))


def facts_of_call(call: Closed) -> list[Any]:
    facts = list(_first_of(call))
    facts[_RECEIVED_AT] = call.received_at_ns // 1000
    for place in _FLOAT_PLACES:
        if facts[place] is not None:
            facts[place] = float(facts[place])
    return facts + _later(_later_of(call))


def facts_of_row(row: Mapping[str, Any]) -> list[Any]:
    """`row` as from values(*COLUMNS)."""
    facts = [_stored_fact(column, row[column]) for column in SEALED_FIRST]
    return facts + _later(tuple(row[name] for name in _DEFAULTS))


def _later(values: tuple[Any, ...]) -> list[Any]:
    """Name and value of each column that says something, in alphabetical order."""
    return sorted(
        [name, value]
        for (name, default), value in zip(_DEFAULTS.items(), values, strict=True)
        if value != default
    )


def _stored_fact(column: str, value: Any) -> Any:
    if column == "received_at":
        seconds = int(value.replace(microsecond=0).timestamp())
        return seconds * 1_000_000 + value.microsecond
    if column == "id":
        return str(value)
    return float(value) if column in _FLOATS and value is not None else value
