"""Writes calls as rows, with their seals and the hours that they change: all of it, or nothing."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.db import DataError, IntegrityError, connection, transaction
from django.utils import timezone

from monitoring.request_log.models import RequestLog, RowSeal
from monitoring.request_log.seals import COLUMNS, checksum, facts_of_call, values_of
from monitoring.usage.models import StaleHour
from proxy.journal.records import Closed, Opened
from routing.models import ApiKey

logger = logging.getLogger(__name__)

UNSTORABLE = (DataError, IntegrityError, OverflowError)
"""Faults of a row; all others are the database's, and pass."""

COPY_FROM = 100
"""Rows; for fewer, COPY's temporary table costs more than it saves."""

HOUR_NS = 3600 * 10**9
_encode = msgspec.json.encode


def unknown(opened: Opened) -> Closed:
    """A call that never ended: its process died. It counts at what was reserved for it."""
    fields = msgspec.structs.asdict(opened)
    reserved = fields.pop("reserved_nano_usd")
    outcome = RequestLog.Outcome.UNKNOWN.value
    return Closed(outcome=outcome, tokens_estimated=True, cost_nano_usd=reserved, **fields)


def _log_unstorable(call: Closed, error: Exception) -> None:
    logger.critical("journal: row of call %s can't be stored: %s", call.id, error)


def store(calls: list[Closed], on_unstorable: Callable[[Closed, Exception], None] = _log_unstorable) -> None:
    """Insert rows; one that is there already stays, and one that no column takes is told and left out."""
    try:
        _insert(calls)
    except UNSTORABLE:
        for call in calls:  # one by one: a bad row must not stop all that come after it
            try:
                _insert([call])
            except UNSTORABLE as error:
                on_unstorable(call, error)


def _insert(calls: list[Closed]) -> None:
    if not calls:
        return
    rows = list(_rows(calls, postgres=connection.vendor == "postgresql"))
    with transaction.atomic():
        _add(RequestLog, [row for row, _ in rows])
        _add(RowSeal, [seal for _, seal in rows])
        mark_stale({call.received_at_ns // HOUR_NS for call in calls})
        _touch_keys(calls)


def _add(model: Any, rows: Sequence[tuple[Any, ...]]) -> None:
    quote = connection.ops.quote_name
    table, columns = quote(model._meta.db_table), _columns(model)
    if connection.vendor == "postgresql" and len(rows) >= COPY_FROM:
        return _copy(table, columns, rows)
    places = ", ".join(["%s"] * len(rows[0]))
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING", list(rows)
        )
    return None


def _copy(table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Through a temporary table: COPY itself knows no ON CONFLICT."""
    with connection.cursor() as cursor, connection.wrap_database_errors:
        cursor.execute(f"CREATE TEMPORARY TABLE fresh_rows (LIKE {table} INCLUDING DEFAULTS) ON COMMIT DROP")
        copying: Any = cursor.cursor
        with copying.copy(f"COPY fresh_rows ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
        cursor.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM fresh_rows ON CONFLICT DO NOTHING"
        )
        cursor.execute("DROP TABLE fresh_rows")


def _columns(model: Any) -> str:
    return ", ".join(connection.ops.quote_name(field.column) for field in model._meta.concrete_fields)


_ID, _RECEIVED_AT, _TRAIL, _TAGS = (
    COLUMNS.index(name) for name in ("id", "received_at", "attempt_trail", "tags")
)
_Values = tuple[Any, ...]


def _rows(calls: Iterable[Closed], *, postgres: bool) -> Iterator[tuple[_Values, _Values]]:
    """(row, seal) of each, in the order of their columns, in the database's own types."""
    for call in calls:
        row = list(values_of(call))
        row[_ID] = id = call.id if postgres else call.id.replace("-", "")
        row[_RECEIVED_AT] = received = _moment(call.received_at_ns, postgres=postgres)
        row[_TRAIL] = _encode(call.attempt_trail).decode()
        row[_TAGS] = _encode(call.tags).decode()
        yield tuple(row), (id, received, checksum(facts_of_call(call)), call.cost_nano_usd)


def _moment(nanoseconds: int, *, postgres: bool) -> Any:
    moment = datetime.fromtimestamp(nanoseconds // 1000 / 1_000_000, UTC)
    return moment if postgres else moment.replace(tzinfo=None).isoformat(" ")


def mark_stale(hours: Iterable[int]) -> None:
    """Hours since 1970 whose usage must be summed up again. Inside the transaction that changes them.

    The number of changes begins with the time: one that was seen never comes again for other rows.
    """
    table = connection.ops.quote_name(StaleHour._meta.db_table)
    postgres = connection.vendor == "postgresql"
    rows = [(_moment(hour * HOUR_NS, postgres=postgres), time.time_ns()) for hour in sorted(hours)]
    with connection.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO {table} (hour, changes) VALUES (%s, %s) "
            f"ON CONFLICT (hour) DO UPDATE SET changes = {table}.changes + 1",
            rows,
        )


def _touch_keys(calls: list[Closed]) -> None:
    used = {call.key_id for call in calls if call.key_id is not None}
    if used:
        ApiKey.objects.filter(pk__in=used).update_quietly(last_used_at=timezone.now())
