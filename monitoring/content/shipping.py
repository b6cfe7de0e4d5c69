"""Follows the content journals of all workers, living and dead, beside the books' shipper."""

import logging
import os
import time
from pathlib import Path

from monitoring.content.storing import store
from proxy.content.records import from_line
from proxy.journal.reader import Damage, Position, claim_dead, read_lines, segments, unfinished, workers

logger = logging.getLogger(__name__)

SHARE_SECONDS = 0.2  # at once: the books' rows wait meanwhile


class ContentShipper:
    """Safe to run again over the same records. Damage is logged and left out: content is no book."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._positions: dict[Path, Position] = {}

    def ship(self) -> None:
        """For SHARE_SECONDS, then what there is more waits. Raises what the database does."""
        until = time.monotonic() + SHARE_SECONDS
        for worker in sorted(workers(self._directory)) if self._directory.exists() else ():
            lock = claim_dead(self._directory, worker)
            try:
                self._ship_worker(worker, until, dead=lock is not None)
            finally:
                if lock is not None:
                    os.close(lock)

    def _ship_worker(self, worker: str, until: float, *, dead: bool) -> None:
        paths = segments(self._directory, worker)
        done = [self._ship_segment(path, until) for path in paths]
        for path, is_done in zip(paths, done, strict=True):
            if is_done and (dead or path != paths[-1]):
                self._drop(path)
        if dead and all(done):
            (self._directory / f"{worker}.lock").unlink(missing_ok=True)

    def _ship_segment(self, path: Path, until: float) -> bool:
        """Whether it was read to its end."""
        position = self._positions.setdefault(path, Position(path))
        while time.monotonic() < until:
            before = position.offset
            records = read_lines(position, from_line, _tell)
            if position.offset == before:
                return True
            try:
                store(records)
            except BaseException:
                position.offset = before
                raise
        return False

    def _drop(self, path: Path) -> None:
        if found := unfinished(self._positions[path]):
            _tell(found)
        path.unlink()
        del self._positions[path]


def _tell(damage: Damage) -> None:
    logger.error("content: %s at byte %d: %s; left out", damage.file, damage.byte, damage.why)
