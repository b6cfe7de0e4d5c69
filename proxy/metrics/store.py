"""The counts of all web processes of one DATA_DIR: a file each, and one for those that have ended."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from proxy.background import replace_file
from proxy.breaker.exchange import TargetView
from proxy.metrics.counters import Labels

Families = dict[str, list[tuple[Labels, list[int]]]]


class PoolUse(msgspec.Struct):
    """Requests open to one provider, and how many may be."""

    provider: str
    in_use: int
    size: int


class WorkerReport(msgspec.Struct, kw_only=True):
    """What one web process says of itself. Times are Unix seconds."""

    worker: str
    pid: int
    started_at: float
    at: float
    families: Families
    table_version: int = -1
    table_age: float = 0.0  # seconds since it was last known to be the newest
    journal_lost: int = 0
    traces_dropped: int = 0
    pools: list[PoolUse] = []
    targets: list[TargetView] = []


class Ended(msgspec.Struct):
    """The sum of ended processes. `merged`: whose files may still be there although they are in it."""

    families: Families
    journal_lost: int = 0
    merged: list[str] = []
    traces_dropped: int = 0


_encode = msgspec.json.encode
_report = msgspec.json.Decoder(WorkerReport)
_ended = msgspec.json.Decoder(Ended)


class Store:
    """Files: `<worker>.json`; `<worker>.lock`, locked while that process lives; `ended.json`.

    All methods may raise OSError. Not for the event loop.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._lock: int | None = None

    def post(self, report: WorkerReport) -> None:
        """Replace this process's report; it counts as living from the first one until close()."""
        if self._lock is None:
            self._lock = os.open(self._path(report.worker, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        replace_file(self._path(report.worker, "json"), _encode(report))

    def close(self) -> None:
        """What was posted last becomes part of what ended processes have counted."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self.merge_ended()

    def read(self) -> tuple[list[WorkerReport], Ended]:
        """(the reports of living processes, the sum of the others), each process in exactly one of them."""
        with self._turn(fcntl.LOCK_SH):
            ended = self._read_ended()
            living = []
            for report in self._reports():
                if report.worker in ended.merged:
                    continue
                if self._lives(report.worker):
                    living.append(report)
                else:
                    add(ended, report)
        return living, ended

    def merge_ended(self) -> None:
        """Move the counts of ended processes into the one file. Whatever breaks it off, none counts twice."""
        with self._turn(fcntl.LOCK_EX):
            ended = self._read_ended()
            dead = [report for report in self._reports() if not self._lives(report.worker)]
            for report in dead:
                if report.worker not in ended.merged:
                    add(ended, report)
            if dead:
                ended.merged = [report.worker for report in dead]
                replace_file(self._directory / "ended.json", _encode(ended))
            for report in dead:
                for kind in ("json", "lock"):
                    self._path(report.worker, kind).unlink(missing_ok=True)

    def _path(self, worker: str, kind: str) -> Path:
        return self._directory / f"{worker}.{kind}"

    def _reports(self) -> Iterator[WorkerReport]:
        for path in sorted(self._directory.glob("*.json")):
            if path.name != "ended.json":
                yield _report.decode(path.read_bytes())

    def _read_ended(self) -> Ended:
        with suppress(FileNotFoundError):
            return _ended.decode((self._directory / "ended.json").read_bytes())
        return Ended({})

    def _lives(self, worker: str) -> bool:
        try:
            file = os.open(self._path(worker, "lock"), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    @contextmanager
    def _turn(self, kind: int) -> Iterator[None]:
        with open(self._directory / "turn.lock", "ab") as file:
            fcntl.flock(file, kind)
            yield


def add(total: Ended, report: WorkerReport) -> None:
    total.journal_lost += report.journal_lost
    total.traces_dropped += report.traces_dropped
    total.families = summed([total.families, report.families])


def summed(parts: list[Families]) -> Families:
    """Family by family, series by series. One whose size differs is another version's, and is left out."""
    families: dict[str, dict[Labels, list[int]]] = {}
    for part in parts:
        for name, series in part.items():
            found = families.setdefault(name, {})
            for labels, counts in series:
                known = found.get(labels)
                if known is None:
                    found[labels] = list(counts)
                elif len(known) == len(counts):
                    found[labels] = [a + b for a, b in zip(known, counts, strict=True)]
    return {name: list(series.items()) for name, series in families.items()}
