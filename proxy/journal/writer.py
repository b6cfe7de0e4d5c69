"""Appends records to this worker's segments."""

import asyncio
import fcntl
import logging
import os
import threading
import uuid
from pathlib import Path

from proxy.journal.records import Record, to_line

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 4 * 1024 * 1024
SYNC_SECONDS = 0.1  # bounds what a power cut can take; kill -9 takes nothing


class JournalWriter:
    """One per web process, used on its event loop only.

    Files: `<worker>.<number>.journal`, and `<worker>.lock`, locked for as long as the process lives, so
    that others can tell a dead worker's segments from a living one's.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.worker = uuid.uuid4().hex
        self.lost = 0  # records that the disk refused
        self._number = 0
        self._size = 0
        self._gathered: list[bytes] = []
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

    def write(self, record: Record) -> bool:
        """In the operating system's hands when this returns, with all that was gathered before it.

        False where the disk took less than the whole; that is counted and logged.
        """
        self._gathered.append(to_line(record))
        return self._flush()

    def gather(self, record: Record) -> None:
        """Written with the next record, at the latest when this turn of the event loop ends.

        For closed records: a process that is killed in between leaves the call as opened.
        """
        self._gathered.append(to_line(record))
        if len(self._gathered) == 1:
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        self._flush()
        self._stop.set()
        self._syncer.join(timeout=2)
        self._sync_all()
        os.close(self._file)
        os.close(self._lock_file)

    def _flush(self) -> bool:
        lines, self._gathered = self._gathered, []
        if not lines:
            return True
        data = lines[0] if len(lines) == 1 else b"".join(lines)
        try:
            written = os.write(self._file, data)
        except OSError as error:
            return self._refused(len(lines), error.strerror or "write failed")
        self._dirty = True
        self._size += written
        if written != len(data):
            return self._refused(len(lines), "disk full")
        if self._size >= SEGMENT_BYTES:
            self._rotate()
        return True

    def _open(self) -> int:
        return os.open(self.current, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600)

    def _rotate(self) -> None:
        with self._turn:
            self._full.append(self._file)
            self._number += 1
            self._size = 0
            self._file = self._open()

    def _refused(self, records: int, why: str) -> bool:
        self.lost += records
        logger.critical("journal: %d records not written: %s", records, why)
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
