"""How much of the journal is not in the database yet."""

from contextlib import suppress
from pathlib import Path

from monitoring.shipping.state import ShipperState


def backlog_bytes(directory: Path, told: ShipperState | None) -> int:
    """Of all segments; up to a second old, as the shipper tells no more often."""
    offsets = told.offsets if told is not None else {}
    waiting = 0
    for path in directory.glob("*.journal"):
        with suppress(FileNotFoundError):  # shipped and deleted meanwhile
            waiting += max(path.stat().st_size - offsets.get(path.name, 0), 0)
    return waiting
