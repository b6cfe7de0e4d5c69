"""What this process's limits count, left in a file once a second for management commands."""

import time
from pathlib import Path

import msgspec

from proxy.admission.base import Admission
from proxy.admission.memory import MemoryAdmission
from proxy.background import Repeating, replace_file

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
        self._thread = Repeating(
            "limits-file", POST_SECONDS, self._post, trouble="the limits' counts are not posted"
        )

    def start(self) -> None:
        if isinstance(self._admission, MemoryAdmission):
            self._thread.start()

    def stop(self) -> None:
        self._thread.stop()

    def _post(self) -> None:
        assert isinstance(self._admission, MemoryAdmission)
        counts = Counts(time.time(), [Counted(*found) for found in self._admission.budgets()])
        replace_file(self._path, _encode(counts))
