"""What this process's limits count, left in a file once a second for management commands."""

import logging
import os
import threading
import time
from pathlib import Path

import msgspec

from proxy.admission.base import Admission
from proxy.admission.memory import MemoryAdmission

logger = logging.getLogger(__name__)

POST_SECONDS = 1.0
STALE_SECONDS = 5.0


class Counted(msgspec.Struct, frozen=True):
    """One owner's budget in one period. `start` is Unix seconds, None for a budget that never resets."""

    kind: str
    id: int
    start: float | None
    spent: int
    reserved: int
    open: int  # calls of the owner


class Counts(msgspec.Struct):
    at: float
    budgets: list[Counted]


_encode = msgspec.json.encode
_decoder = msgspec.json.Decoder(Counts)


def read_counts(path: Path) -> Counts | None:
    """None where no web process that counts by itself runs."""
    try:
        found = _decoder.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return found if time.time() - found.at < STALE_SECONDS else None


class LimitsFile:
    """A thread beside the event loop; it only reads. Does nothing where Redis counts."""

    def __init__(self, path: Path, admission: Admission) -> None:
        self._path = path
        self._admission = admission
        self._problem = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits-file", daemon=True)

    def start(self) -> None:
        if isinstance(self._admission, MemoryAdmission):
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def _run(self) -> None:
        while not self._stop.wait(POST_SECONDS):
            try:
                self._post()
                self._problem = ""
            except OSError as error:
                if not self._problem:
                    logger.error("the limits' counts are not posted: %s", error.strerror)
                self._problem = str(error)

    def _post(self) -> None:
        assert isinstance(self._admission, MemoryAdmission)
        counts = Counts(time.time(), [Counted(*found) for found in self._admission.budgets()])
        new = self._path.with_suffix(f".{os.getpid()}")
        new.write_bytes(_encode(counts))
        new.replace(self._path)
