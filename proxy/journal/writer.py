"""Appends records to this worker's segments."""

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
import uuid
from pathlib import Path

from proxy.journal.reader import DEAD, SETTLED
from proxy.journal.records import Record, to_line

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
SYNC_SECONDS = 0.1  # bounds what a power cut can take; kill -9 takes nothing
RETRY_SECONDS = 0.5  # of a disk that took nothing
MOST_WAITING = 50_000  # records kept in memory while the disk takes none, about 30 MB


class JournalWriter:
    """One per web process, used on its event loop only.

    Files: `<worker>.<number>.journal`, and `<worker>.lock`, locked for as long as the process lives, so
    that others can tell a dead worker's segments from a living one's.

    What a full disk refuses waits in memory and is written when there is room again.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.worker = uuid.uuid4().hex
        self.lost = 0  # records that were given up
        self.problem = ""  # why records wait
        self._number = 0
        self._size = 0
        self._waiting: list[bytes] = []  # whole lines
        self._flush_is_due = False
        self._full: list[int] = []  # files of earlier segments, still to be synced
        self._dirty = False
        self._stop = threading.Event()
        self._turn = threading.Lock()  # between rotation and the syncing thread
        self._lock_file = os.open(self.lock_path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = self._open()
        self._syncer = threading.Thread(target=self._sync_often, name="journal-sync", daemon=True)
        self._syncer.start()

    @property
    def lock_path(self) -> Path:
        return self.directory / f"{self.worker}.lock"

    @property
    def current(self) -> Path:
        return self.directory / f"{self.worker}.{self._number:08d}.journal"

    @property
    def waiting(self) -> int:
        """Records that are in memory only."""
        return len(self._waiting)

    def write(self, record: Record, *, keep: bool = True) -> bool:
        """In the operating system's hands when this returns, with all that was gathered before it.

        False where the disk took less than the whole. Then the record waits in memory, unless `keep`
        is off.
        """
        if not self.problem:
            self._waiting.append(to_line(record))
            if self._flush():
                return True
            if not keep:
                self._waiting.pop()
        elif keep and len(self._waiting) < MOST_WAITING:
            self._waiting.append(to_line(record))
        elif keep:
            self.lost += 1
        return False

    def write_line(self, line: bytes) -> bool:
        """A line of another kind. False where the disk took less than the whole; then it is given up."""
        if self.problem:
            return False
        self._waiting.append(line)
        if self._flush():
            return True
        self._waiting.clear()
        return False

    def gather(self, record: Record) -> None:
        """Written with the next record, at the latest before what the event loop is given to do from now on.

        A process that is killed in between leaves a call that ended as opened, and one that began not at
        all: its provider must be called after write_gathered(), or by what the loop is given from now on.
        """
        if len(self._waiting) < MOST_WAITING:
            self._waiting.append(to_line(record))
        else:
            self.lost += 1
        if not self._flush_is_due:
            self._flush_is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def write_gathered(self) -> None:
        """Unless the disk is known to take nothing now."""
        if self._flush_is_due and not self.problem:
            self._flush()

    def close(self, *, settled: bool = False) -> None:
        """`settled`: the limits know of all that this process let through."""
        if not self._flush():
            self.lost += len(self._waiting)
            logger.critical("journal: %d records lost: %s", len(self._waiting), self.problem)
        self._stop.set()
        self._syncer.join(timeout=2)
        self._sync_all()
        os.close(self._file)
        if settled:
            os.pwrite(self._lock_file, SETTLED, len(DEAD))
        os.close(self._lock_file)

    def _flush(self) -> bool:
        self._flush_is_due = False
        lines = self._waiting
        if not lines:
            self.problem = ""  # not known before the next record
            return True
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written, why = os.write(self._file, data), "disk full"
        except OSError as error:
            written, why = 0, error.strerror or "write failed"
        self._dirty = True
        self._size += written
        if written != len(data):
            return self._refused(data, written, why)
        self._waiting = []
        if self.problem:
            logger.info("journal: the disk takes records again")
            self.problem = ""
        if self._size >= SEGMENT_BYTES:
            self._rotate()
        return True

    def _open(self) -> int:
        return os.open(self.current, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600)

    def _rotate(self) -> None:
        with self._turn:
            self._number += 1
            try:
                new = self._open()
            except OSError as error:  # no file is to be had: the old one grows, the next record tries again
                self._number -= 1
                logger.critical("journal: no new segment: %s", error.strerror)
                return
            self._full.append(self._file)
            self._size = 0
            self._file = new

    def _refused(self, data: bytes, written: int, why: str) -> bool:
        """Keep what the disk did not take; cut off the line that it took a part of."""
        whole = data.rfind(b"\n", 0, written) + 1
        self._waiting = data[whole:].splitlines(keepends=True)
        if whole != written:
            try:
                os.ftruncate(self._file, self._size - written + whole)
                self._size += whole - written
            except OSError:
                self._waiting[0] = b"\n" + self._waiting[0]  # so that only the torn line is bad
        if not self.problem:
            logger.critical("journal: %d records wait in memory: %s", len(self._waiting), why)
        self.problem = why
        with contextlib.suppress(RuntimeError):  # no loop: the gateway ends
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._flush)
            self._flush_is_due = True
        return False

    def _sync_often(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            if self._dirty:
                self._dirty = False
                self._sync_all()

    def _sync_all(self) -> None:
        # On a duplicate and without the lock: a slow disk must not hold up a request.
        with self._turn:
            full, self._full = self._full, []
            full.append(os.dup(self._file))
        for file in full:
            self._sync(file)
            os.close(file)

    def _sync(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as error:
            logger.critical("journal: sync failed: %s", error.strerror)
