"""Moves closed calls from the journal to the database, off the request path."""

import fcntl
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from django.db import close_old_connections, connection
from django.utils import timezone

from monitoring.background import heartbeats
from monitoring.content.shipping import ContentShipper
from monitoring.request_log.log_lines import write_lines
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.pacing import Pace
from monitoring.shipping.state import StateFile
from monitoring.shipping.storing import store, unknown
from proxy.admission.redis.counters import recount_budgets
from proxy.journal.reader import (
    Damage,
    Position,
    claim_dead,
    is_settled,
    read_new,
    segments,
    unfinished,
    workers,
)
from proxy.journal.records import Closed, Opened

logger = logging.getLogger(__name__)

SHIP_SECONDS = 0.25
SHARE_SECONDS = 2.0  # of one turn: then it tells how far it is, and who else is to be served comes first
RESCUE_SECONDS = 5.0


class Shipper:
    """Follows the segments of all workers of one journal directory, living and dead.

    Only one ships at a time. Safe to run again over the same records: a row whose id exists stays.
    """

    def __init__(self, directory: Path, contents: ContentShipper | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.problem = ""
        self._contents = contents
        self._content_problem = ""
        self._directory = directory
        self._positions: dict[Path, Position] = {}
        self._open: dict[str, tuple[Opened, Path]] = {}  # calls that have not ended, and where they began
        self._next_rescue = 0.0
        self._served = ""  # the worker that took the last turn's time; the next one begins behind it
        self._books = StateFile(directory)
        self._next_watch = 0.0

    def run(self, stop: threading.Event) -> None:
        """Ship until told to stop, then once more."""
        with self._alone(stop) as alone:
            if alone:
                self._books = StateFile(self._directory)  # another one may have written it meanwhile
            pace, pause = Pace(), SHIP_SECONDS
            while alone and not stop.wait(pause):
                pace.begin()
                waits = self.ship(SHARE_SECONDS)
                pause = max(0.0 if waits else SHIP_SECONDS, pace.rest())
            self._next_rescue = 0.0
            if alone:
                self.ship()
        connection.close()

    def ship(self, seconds: float = math.inf) -> bool:
        """Once, for about so long; whether there is more that could be shipped at once.

        A database that is away costs nothing but time: the records stay where they are.
        """
        close_old_connections()
        waits, until = False, time.monotonic() + seconds
        try:
            for worker in self._in_turn():
                if not waits and not self._ship_worker(worker, until):
                    waits, self._served = True, worker
            if time.monotonic() >= self._next_rescue:
                self._rescue()
                self._next_rescue = time.monotonic() + RESCUE_SECONDS
            self._watch()
            self._note("")
        except Exception as error:  # noqa: BLE001 shipping must go on when the cause is gone
            connection.close()
            waits = False
            self._note(f"{type(error).__name__}: {error}")
        if self._contents is not None:
            self._ship_contents(self._contents)
        self._tell()
        return waits

    def _in_turn(self) -> list[str]:
        found = sorted(workers(self._directory))
        behind = [worker for worker in found if worker > self._served]
        return behind + [worker for worker in found if worker <= self._served]

    def _ship_contents(self, contents: ContentShipper) -> None:
        """Apart from the books: neither may hold up the other."""
        try:
            contents.ship()
            self._content_problem = ""
        except Exception as error:  # noqa: BLE001 as above
            connection.close()
            if (problem := f"{type(error).__name__}: {error}") != self._content_problem:
                logger.error("content not shipped, will try again: %s", problem)
            self._content_problem = problem

    def _watch(self) -> None:
        """Tells its own sign of life and looks for the others, as web processes may not ask the database."""
        if time.monotonic() >= self._next_watch:
            self._next_watch = time.monotonic() + heartbeats.BEAT_SECONDS
            now = timezone.now()
            heartbeats.beat(
                heartbeats.SHIPPER, now, {"backlog_bytes": backlog_bytes(self._directory, self._books.state)}
            )
            heartbeats.watch.look(now)
            self._books.state.stalled = heartbeats.stalled(now)

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

    def _tell(self) -> None:
        """Also where nothing was shipped: who reads it must see that somebody tries."""
        state = self._books.state
        state.problem = self.problem.split(":", 1)[0]  # the full text may name hosts
        state.offsets = {path.name: position.offset for path, position in self._positions.items()}
        try:
            self._books.save()
        except OSError as error:
            logger.error("the shipper's state is not saved: %s", error.strerror)

    def _ship_worker(self, worker: str, until: float = math.inf) -> bool:
        """Whether all was shipped that it has written."""
        spent, paths = [], segments(self._directory, worker)
        for path in paths:
            if not self._ship_segment(self._positions.setdefault(path, Position(path)), until):
                break
            spent.append(path)
        self._delete_spent([path for path in spent if path != paths[-1]])  # that one is still written to
        return spent == paths

    def _ship_segment(self, position: Position, until: float) -> bool:
        """Whether it was read to its end."""
        while True:
            before = position.offset
            damage: list[Damage] = []
            records = read_new(position, damage.append)
            if position.offset == before:
                return True
            try:
                self._store([record for record in records if isinstance(record, Closed)])
                for found in damage:
                    self._keep(found)
            except BaseException:
                position.offset = before
                raise
            for record in records:
                if isinstance(record, Opened):
                    self._open[record.id] = (record, position.path)
                else:
                    self._open.pop(record.id, None)
            if time.monotonic() >= until:
                return False

    def _store(self, calls: list[Closed]) -> None:
        store(calls, self._keep_unstorable)
        self._books.state.rows += len(calls)
        write_lines(calls)

    def _keep(self, found: Damage) -> None:
        if self._books.keep_damage(found):
            logger.critical("journal: %s at byte %d: %s; kept aside", found.file, found.byte, found.why)

    def _keep_unstorable(self, call: Closed, error: Exception) -> None:
        if self._books.keep_unstorable(call, str(error)):
            logger.critical("journal: row of call %s can't be stored, kept aside: %s", call.id, error)

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
                    self._bury(worker, settled=is_settled(lock))
                finally:
                    os.close(lock)

    def _bury(self, worker: str, *, settled: bool) -> None:
        """Ship all that a dead worker left. Calls that it never closed get the outcome unknown.

        `settled`: it ended in order, and the limits know of all that it closed.
        """
        self._ship_worker(worker)
        paths = set(segments(self._directory, worker))
        left = [opened for opened, path in self._open.values() if path in paths]
        self._store([unknown(opened) for opened in left])
        for path in paths:
            if found := unfinished(self._positions[path]):
                self._keep(found)
        if left or not settled:
            # What it settled last may never have reached Redis, and what it held comes back unspent.
            recount_budgets()
        if left:
            logger.warning("journal of a dead worker shipped; %d calls had no end", len(left))
            self._books.count_unknown(worker, len(left))
            self._tell()
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
