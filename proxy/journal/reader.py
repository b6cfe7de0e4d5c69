"""Reads segments while they are written, and those that a dead worker left."""

import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.journal.records import BadLine, Record, from_line

READ_BYTES = 1024 * 1024
DEAD = b"dead"
"""What a lock file says once its journal is claimed for recovery."""

SETTLED = b"settled"
"""What it says behind that if its process ended in order, and the limits know of all its calls."""


@dataclass(slots=True)
class Position:
    """How far one segment was read; always at the start of a line."""

    path: Path
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a segment that is not what was written, and where."""

    file: str
    byte: int
    why: str
    content: bytes


def _ignore(damage: Damage) -> None:
    """For readers beside the shipper, which keeps all damage."""


def read_new(position: Position, on_damage: Callable[[Damage], None] = _ignore) -> list[Record]:
    """The whole records after the position: see read_lines."""
    return read_lines(position, from_line, on_damage)


def read_lines(
    position: Position, parse: Callable[[bytes], Any], on_damage: Callable[[Damage], None] = _ignore
) -> list[Any]:
    """The whole records after the position, at most about READ_BYTES of them; moves the position.

    An unfinished last line stays for the next call. A line that is not what was written is told
    and skipped.
    """
    with open(position.path, "rb") as file:
        file.seek(position.offset)
        data = file.read(READ_BYTES)
    end = data.rfind(b"\n") + 1
    records = list(_records(data[:end], position, parse, on_damage))
    position.offset += end
    return records


def _records(
    lines: bytes, position: Position, parse: Callable[[bytes], Any], on_damage: Callable[[Damage], None]
) -> Iterator[Any]:
    at = position.offset
    for line in lines.split(b"\n")[:-1]:
        try:
            yield parse(line)
        except BadLine as error:
            on_damage(Damage(position.path.name, at, str(error), line))
        at += len(line) + 1


def unfinished(position: Position) -> Damage | None:
    """What follows the last whole line of a segment that nobody writes to any more."""
    with open(position.path, "rb") as file:
        file.seek(position.offset)
        content = file.read(READ_BYTES)
    if not content:
        return None
    return Damage(position.path.name, position.offset, "torn: its process died while writing it", content)


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
    os.pwrite(file, DEAD, 0)
    return file


def is_settled(lock_file: int) -> bool:
    return os.pread(lock_file, len(SETTLED), len(DEAD)) == SETTLED


def lives(directory: Path, worker: str) -> bool:
    """Whether the worker's process still runs."""
    try:
        file = os.open(directory / f"{worker}.lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(file, len(DEAD), 0) != DEAD  # else it is a rescuer that has the lock
    finally:
        os.close(file)
    return False
