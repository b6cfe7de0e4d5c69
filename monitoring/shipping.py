"""Moves closed calls from the journal to the database, off the request path."""

import logging
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from django.db import close_old_connections, connection, transaction
from django.utils import timezone

from monitoring.models import RequestLog
from proxy.journal.reader import Position, claim_dead, read_new, segments, workers
from proxy.journal.records import Closed, Opened
from proxy.journal.writer import JournalWriter
from routing.models import ApiKey

logger = logging.getLogger(__name__)

SHIP_SECONDS = 0.25
RESCUE_SECONDS = 30.0
SPENT_BYTES = 1024 * 1024  # a shipped segment of this size is rotated, so that it can be deleted

COLUMNS = tuple(field.attname for field in RequestLog._meta.concrete_fields)


class Shipper:
    """Follows one worker's segments, and takes over those of dead workers.

    Safe to run twice over the same records: a row whose id exists is left as it is.
    """

    def __init__(self, journal: JournalWriter) -> None:
        self.problem = ""
        self._journal = journal
        self._positions: dict[Path, Position] = {}
        self._open: dict[Any, Path] = {}  # id of an open call -> the segment that has its record
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-shipper", daemon=True)
        self._next_rescue = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ship what is there, then end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        ticks = 0
        while True:
            stopping = self._stop.wait(SHIP_SECONDS)
            close_old_connections()
            self._try(self._ship_own)
            if ticks % int(RESCUE_SECONDS / SHIP_SECONDS) == 0:
                self._try(self._rescue)
            ticks += 1
            if stopping:
                connection.close()
                return

    def _try(self, step: Any) -> None:
        """A database that is away costs nothing but time: the records stay where they are."""
        try:
            step()
            self._note("")
        except Exception as error:  # noqa: BLE001 shipping must go on when the cause is gone
            connection.close()
            self._note(f"{type(error).__name__}: {error}")

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.error("journal not shipped, will try again: %s", problem)
        self.problem = problem

    def _ship_own(self) -> None:
        for path in segments(self._journal.directory, self._journal.worker):
            position = self._positions.setdefault(path, Position(path))
            self._ship_segment(position)
        self._delete_spent()

    def _ship_segment(self, position: Position) -> None:
        while True:
            before = position.offset
            records = read_new(position)
            if position.offset == before:
                return
            try:
                store([record for record in records if isinstance(record, Closed)])
            except BaseException:
                position.offset = before
                raise
            for record in records:
                if isinstance(record, Opened):
                    self._open[record.id] = position.path
                else:
                    self._open.pop(record.id, None)

    def _delete_spent(self) -> None:
        held = set(self._open.values())
        current = self._positions.get(self._journal.current)
        if current is not None and current.offset >= SPENT_BYTES and current.path not in held:
            self._journal.rotate()
        for path, position in list(self._positions.items()):
            over = path != self._journal.current and path not in held
            if over and position.offset >= path.stat().st_size:
                path.unlink()
                del self._positions[path]

    def _rescue(self) -> None:
        for worker in workers(self._journal.directory) - {self._journal.worker}:
            lock = claim_dead(self._journal.directory, worker)
            if lock is not None:
                try:
                    rescue(self._journal.directory, worker)
                finally:
                    os.close(lock)


def rescue(directory: Path, worker: str) -> None:
    """Ship all that a dead worker left. Calls that it never closed get the outcome unknown."""
    open_calls: dict[Any, Opened] = {}
    paths = segments(directory, worker)
    for path in paths:
        position = Position(path)
        while records := read_new(position):
            store([record for record in records if isinstance(record, Closed)])
            for record in records:
                if isinstance(record, Opened):
                    open_calls[record.id] = record
                else:
                    open_calls.pop(record.id, None)
    store([_unknown(opened) for opened in open_calls.values()])
    if open_calls:
        logger.warning("journal of a dead worker shipped; %d calls had no end", len(open_calls))
    for path in paths:
        path.unlink()
    (directory / f"{worker}.lock").unlink(missing_ok=True)


def _unknown(opened: Opened) -> Closed:
    fields = msgspec.structs.asdict(opened)
    del fields["reserved_nano_usd"]  # given back to the budgets when the dead worker's lease ended
    return Closed(outcome=RequestLog.Outcome.UNKNOWN.value, tokens_estimated=True, **fields)


def store(calls: list[Closed]) -> None:
    """Insert rows in one transaction; a row that is there already stays."""
    if not calls:
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(_insert_sql(), [_row(call) for call in calls])
        _touch_keys(calls)


def _insert_sql() -> str:
    quote = connection.ops.quote_name
    columns = ", ".join(quote(column) for column in COLUMNS)
    places = ", ".join(["%s"] * len(COLUMNS))
    table = quote(RequestLog._meta.db_table)
    return f"INSERT INTO {table} ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING"


_encode = msgspec.json.encode


def _row(call: Closed) -> tuple[Any, ...]:
    """In the order of COLUMNS, in the database's own types."""
    special: dict[str, Any] = {
        "id": call.id if connection.vendor == "postgresql" else call.id.hex,
        "received_at": _moment(call.received_at_ns),
        "attempt_trail": _encode(call.attempt_trail).decode(),
        "tags": _encode(call.tags).decode(),
    }
    return tuple(special[column] if column in special else getattr(call, column) for column in COLUMNS)


def _moment(nanoseconds: int) -> Any:
    moment = datetime.fromtimestamp(nanoseconds // 1000 / 1_000_000, UTC)
    return moment if connection.vendor == "postgresql" else moment.replace(tzinfo=None).isoformat(" ")


def _touch_keys(calls: list[Closed]) -> None:
    used = {call.key_id for call in calls if call.key_id is not None}
    if used:
        ApiKey.objects.filter(pk__in=used).update_quietly(last_used_at=timezone.now())
