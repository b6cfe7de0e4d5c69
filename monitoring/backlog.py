"""How much of the journal is not in the database yet."""

from contextlib import suppress
from pathlib import Path

import msgspec

PROGRESS = "progress.json"


class Progress(msgspec.Struct):
    """What the shipper last told of itself. `offsets`: bytes shipped, by segment's file name."""

    at: float  # Unix seconds
    offsets: dict[str, int] = {}
    problem: str = ""
    stalled: dict[str, str] = {}  # other background components without a sign of life


_decode = msgspec.json.Decoder(Progress).decode


def tell(directory: Path, progress: Progress) -> None:
    """Raises OSError."""
    new = directory / "progress.new"
    new.write_bytes(msgspec.json.encode(progress))
    new.replace(directory / PROGRESS)


def progress(directory: Path) -> Progress | None:
    """None where no shipper has ever run."""
    with suppress(FileNotFoundError):
        return _decode((directory / PROGRESS).read_bytes())
    return None


def backlog_bytes(directory: Path, told: Progress | None) -> int:
    """Of all segments; up to a second old, as the shipper tells no more often."""
    offsets = told.offsets if told is not None else {}
    waiting = 0
    for path in directory.glob("*.journal"):
        with suppress(FileNotFoundError):  # shipped and deleted meanwhile
            waiting += max(path.stat().st_size - offsets.get(path.name, 0), 0)
    return waiting
