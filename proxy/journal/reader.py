"""Reads segments while they are written, and those that a dead worker left."""

import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proxy.journal.records import BadLine, Record, from_line

logger = logging.getLogger(__name__)

READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class Position:
    """How far one segment was read; always at the start of a line."""

    path: Path
    offset: int = 0


def read_new(position: Position) -> list[Record]:
    """The whole records after the position, at most about READ_BYTES of them; moves the position.

    An unfinished last line stays for the next call. A line that is not what was written is logged
    with its place and skipped.
    """
    with open(position.path, "rb") as file:
        file.seek(position.offset)
        data = file.read(READ_BYTES)
    end = data.rfind(b"\n") + 1
    records = list(_records(data[:end], position))
    position.offset += end
    return records


def _records(lines: bytes, position: Position) -> Iterator[Record]:
    at = position.offset
    for line in lines.splitlines(keepends=True):
        try:
            yield from_line(line)
        except BadLine as error:
            logger.error("journal: bad line in %s at byte %d: %s", position.path.name, at, error)
        at += len(line)


def segments(directory: Path, worker: str) -> list[Path]:
    """A worker's segments, oldest first."""
    return sorted(directory.glob(f"{worker}.*.journal"))


def workers(directory: Path) -> set[str]:
    return {path.name.split(".", 1)[0] for path in directory.glob("*.journal")}


def claim_dead(directory: Path, worker: str) -> int | None:
    """Lock a dead worker's journal for recovery; None while its process, or another rescuer, has it."""
    file = os.open(directory / f"{worker}.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
