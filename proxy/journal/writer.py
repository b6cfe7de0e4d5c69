"""Appends records to this worker's segments."""

import fcntl
import logging
import os
import threading
import uuid
from pathlib import Path

from proxy.journal.records import Record, to_line

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 16 * 1024 * 1024
SYNC_SECONDS = 0.1  # bounds what a power cut can take; kill -9 takes nothing


class JournalWriter:
    """One per web process. Each record is one write() to the operating system.

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
        self._dirty = False
        self._stop = threading.Event()
        self._turn = threading.Lock()  # rotation happens on the shipper's thread too
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
        """False where the disk took less than the whole record; that is counted and logged."""
        line = to_line(record)
        with self._turn:
            try:
                written = os.write(self._file, line)
            except OSError as error:
                return self._refused(record, error.strerror or "write failed")
            self._dirty = True
            self._size += written
            if written != len(line):
                return self._refused(record, "disk full")
            if self._size >= SEGMENT_BYTES:
                self._rotate()
        return True

    def rotate(self) -> None:
        """Start a new segment, so that the shipper can delete the old one."""
        with self._turn:
            if self._size:
                self._rotate()

    def close(self) -> None:
        self._stop.set()
        self._syncer.join(timeout=2)
        with self._turn:
            self._sync(self._file)
            os.close(self._file)
            os.close(self._lock_file)

    def _open(self) -> int:
        return os.open(self.current, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600)

    def _rotate(self) -> None:
        old = self._file
        self._number += 1
        self._size = 0
        self._file = self._open()
        self._sync(old)
        os.close(old)

    def _refused(self, record: Record, why: str) -> bool:
        self.lost += 1
        logger.critical("journal: record of call %s not written: %s", record.id, why)
        return False

    def _sync_often(self) -> None:
        while not self._stop.wait(SYNC_SECONDS):
            if not self._dirty:
                continue
            with self._turn:
                self._dirty = False
                duplicate = os.dup(self._file)
            # On a duplicate and without the lock: a slow disk must not hold up a request.
            self._sync(duplicate)
            os.close(duplicate)

    def _sync(self, file: int) -> None:
        try:
            os.fdatasync(file)
        except OSError as error:
            logger.critical("journal: sync failed: %s", error.strerror)
