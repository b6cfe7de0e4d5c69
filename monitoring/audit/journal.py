"""The journal: what has ended must be a row, what has not is in flight, and nothing is damaged."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.audit import Difference, Differences
from monitoring.request_log.models import RequestLog
from monitoring.shipping.state import DAMAGE_FILE, read_state
from proxy.journal.reader import Position, read_new, segments, workers
from proxy.journal.records import Closed, Opened, Record

SHIPPED_WITHIN = 15.0  # seconds: a dead worker's journal is looked for every 5
ASK_AGAIN = 0.5
IDS = 500


@dataclass(slots=True)
class Journal:
    """As it is now. `closed` maps a call to where its record is."""

    closed: dict[str, str] = field(default_factory=dict)
    open: dict[str, Opened] = field(default_factory=dict)


def read_journal(directory: Path) -> Journal:
    found = Journal()
    for worker in workers(directory) if directory.exists() else ():
        for path in segments(directory, worker):
            for record in _records(path):
                if isinstance(record, Closed):
                    found.open.pop(record.id, None)
                    found.closed[record.id] = path.name
                else:
                    found.open[record.id] = record
    return found


def _records(path: Path) -> Iterator[Record]:
    position = Position(path)
    with suppress(FileNotFoundError):  # shipped and deleted meanwhile
        while True:
            before = position.offset
            yield from read_new(position)
            if position.offset == before:
                return


def differences(directory: Path) -> Differences:
    deadline = time.monotonic() + SHIPPED_WITHIN
    closed = read_journal(directory).closed
    missing = _without_row(list(closed))
    while missing and time.monotonic() < deadline:
        time.sleep(ASK_AGAIN)
        missing = _without_row(missing)
    for call in missing:
        yield Difference("journal", f"call {call} ended, {closed[call]} says, and has no row")
    state = read_state(directory)
    if state is not None and state.damaged:
        yield Difference("journal", f"{state.damaged} records were damaged; they are in {DAMAGE_FILE}")


def _without_row(calls: list[str]) -> list[str]:
    left: list[str] = []
    for at in range(0, len(calls), IDS):
        part = calls[at : at + IDS]
        rows = {str(id) for id in RequestLog.objects.filter(pk__in=part).values_list("pk", flat=True)}
        left += [call for call in part if call not in rows]
    return left
