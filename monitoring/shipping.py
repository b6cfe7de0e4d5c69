"""Moves closed calls from the journal to the database, off the request path."""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from django.db import DataError, IntegrityError, close_old_connections, connection, transaction
from django.utils import timezone

from monitoring import heartbeats
from monitoring.backlog import Progress, backlog_bytes, progress, tell
from monitoring.models import RequestLog
from proxy.journal.reader import Position, claim_dead, read_new, segments, workers
from proxy.journal.records import Closed, Opened
from routing.models import ApiKey

logger = logging.getLogger(__name__)

SHIP_SECONDS = 0.25
RESCUE_SECONDS = 5.0
PROGRESS_SECONDS = 1.0

UNSTORABLE = (DataError, IntegrityError, OverflowError)
"""Faults of a row; all others are the database's, and pass."""

COLUMNS = tuple(field.attname for field in RequestLog._meta.concrete_fields)


class Shipper:
    """Follows the segments of all workers of one journal directory, living and dead.

    Only one ships at a time. Safe to run again over the same records: a row whose id exists stays.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.problem = ""
        self._directory = directory
        self._positions: dict[Path, Position] = {}
        self._open: dict[str, tuple[Opened, Path]] = {}  # calls that have not ended, and where they began
        self._next_rescue = 0.0
        self._next_progress = 0.0
        self._next_watch = 0.0
        self._stalled: dict[str, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Ship until told to stop, then once more."""
        with self._alone(stop) as alone:
            while alone and not stop.wait(SHIP_SECONDS):
                self.ship()
            self._next_rescue = 0.0
            if alone:
                self.ship()
        connection.close()

    def ship(self) -> None:
        """Once. A database that is away costs nothing but time: the records stay where they are."""
        close_old_connections()
        try:
            for worker in sorted(workers(self._directory)):
                self._ship_worker(worker)
            if time.monotonic() >= self._next_rescue:
                self._rescue()
                self._next_rescue = time.monotonic() + RESCUE_SECONDS
            self._watch()
            self._note("")
        except Exception as error:  # noqa: BLE001 shipping must go on when the cause is gone
            connection.close()
            self._note(f"{type(error).__name__}: {error}")
        self._tell_progress()

    def _watch(self) -> None:
        """Tells its own sign of life and looks for the others, as web processes may not ask the database."""
        if time.monotonic() >= self._next_watch:
            self._next_watch = time.monotonic() + heartbeats.BEAT_SECONDS
            now = timezone.now()
            heartbeats.beat(heartbeats.SHIPPER, now, {"backlog_bytes": self._backlog()})
            self._stalled = heartbeats.stalled(now)

    def _backlog(self) -> int:
        return backlog_bytes(self._directory, progress(self._directory))

    def _tell_progress(self) -> None:
        """Also where nothing was shipped: who reads it must see that somebody tries."""
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_SECONDS
            offsets = {path.name: position.offset for path, position in self._positions.items()}
            try:
                tell(self._directory, Progress(time.time(), offsets, self.problem, self._stalled))
            except OSError as error:
                logger.error("journal: progress not written: %s", error.strerror)

    @contextmanager
    def _alone(self, stop: threading.Event) -> Iterator[bool]:
        """Waits while another process ships this directory; False where it was stopped meanwhile."""
        with open(self._directory / "shipper.lock", "w") as file:
            while not _locked(file):
                if stop.wait(SHIP_SECONDS):
                    yield False
                    return
            yield True

    def _note(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.error("journal not shipped, will try again: %s", problem)
        self.problem = problem

    def _ship_worker(self, worker: str) -> None:
        paths = segments(self._directory, worker)
        for path in paths:
            self._ship_segment(self._positions.setdefault(path, Position(path)))
        self._delete_spent(paths[:-1])  # the last one is still written to

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
                    self._open[record.id] = (record, position.path)
                else:
                    self._open.pop(record.id, None)

    def _delete_spent(self, full: list[Path]) -> None:
        """A segment stays while a call that began in it is open: a crash would need its record."""
        if full:
            held = {path for _, path in self._open.values()}
            for path in full:
                if path not in held:
                    self._delete(path)

    def _delete(self, path: Path) -> None:
        path.unlink()
        self._positions.pop(path, None)

    def _rescue(self) -> None:
        for worker in workers(self._directory):
            lock = claim_dead(self._directory, worker)
            if lock is not None:
                try:
                    self._bury(worker)
                finally:
                    os.close(lock)

    def _bury(self, worker: str) -> None:
        """Ship all that a dead worker left. Calls that it never closed get the outcome unknown."""
        self._ship_worker(worker)
        paths = set(segments(self._directory, worker))
        left = [opened for opened, path in self._open.values() if path in paths]
        store([_unknown(opened) for opened in left])
        if left:
            logger.warning("journal of a dead worker shipped; %d calls had no end", len(left))
        for opened in left:
            del self._open[opened.id]
        for path in paths:
            self._delete(path)
        (self._directory / f"{worker}.lock").unlink(missing_ok=True)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unknown(opened: Opened) -> Closed:
    fields = msgspec.structs.asdict(opened)
    del fields["reserved_nano_usd"]  # given back to the budgets when the dead worker's lease ended
    return Closed(outcome=RequestLog.Outcome.UNKNOWN.value, tokens_estimated=True, **fields)


def store(calls: list[Closed]) -> None:
    """Insert rows; one that is there already stays, and one that no column takes is logged and left out."""
    try:
        _insert(calls)
    except UNSTORABLE:
        for call in calls:  # one by one: a bad row must not stop all that come after it
            try:
                _insert([call])
            except UNSTORABLE as error:
                logger.critical("journal: row of call %s can't be stored: %s", call.id, error)


def _insert(calls: list[Closed]) -> None:
    """All in one transaction, or none."""
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
        "id": call.id if connection.vendor == "postgresql" else call.id.replace("-", ""),
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
