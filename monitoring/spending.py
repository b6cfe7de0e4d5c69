"""What an owner of a budget has spent: by the request log, and the journal on its way there."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Sum

from monitoring.models import RequestLog
from monitoring.storing import unknown
from proxy.journal.reader import Position, lives, read_new, segments, workers
from proxy.journal.records import Closed, Opened, Record
from routing.models import ModelRoute, Provider, Team
from routing.table import Claim

_COLUMNS = {"key": "key_id", "team": "team", "route": "route", "target": "target_id", "provider": "provider"}
_PAY_FOR_SHADOWS = ("target", "provider")  # a copy costs its account, and no caller
_KNOWN_BY_NAME: dict[str, Any] = {"team": Team, "route": ModelRoute, "provider": Provider}


def spent(claim: Claim, start: float | None, end: float | None, leave_out: Collection[str] = ()) -> int:
    """Nano-USD of the calls that arrived from start until before end (Unix seconds, None is open)."""
    column = _COLUMNS[claim.kind]
    owner = claim.name if claim.kind in _KNOWN_BY_NAME else claim.id
    begins = max(start or 0.0, _created(claim))
    ends = float("inf") if end is None else end
    pays_all = claim.kind in _PAY_FOR_SHADOWS
    # The journal first: what is shipped meanwhile is then in both, and counts once by its id.
    fresh = {
        call.id: call.cost_nano_usd
        for call in _journal()
        # Of an unknown cost the row may know more by now: an admin may have set the price.
        if call.cost_nano_usd is not None
        and getattr(call, column) == owner
        and begins <= call.received_at_ns / 1e9 < ends
        and (pays_all or not call.shadow)
    }
    rows = RequestLog.objects.filter(**{column: owner}).exclude(pk__in=[*fresh, *leave_out])
    if not pays_all:
        rows = rows.filter(shadow=False)
    if begins:
        rows = rows.filter(received_at__gte=datetime.fromtimestamp(begins, UTC))
    if end is not None:
        rows = rows.filter(received_at__lt=datetime.fromtimestamp(end, UTC))
    shipped: int = rows.aggregate(total=Sum("cost_nano_usd"))["total"] or 0
    return shipped + sum(cost for id, cost in fresh.items() if id not in leave_out)


def _created(claim: Claim) -> float:
    """Unix seconds. What an earlier owner of a name spent is not this one's; ids are never used again."""
    model = _KNOWN_BY_NAME.get(claim.kind)
    if model is None:
        return 0.0
    created: datetime = model.objects.values_list("created_at", flat=True).get(pk=claim.id)
    return created.timestamp()


def _journal() -> Iterator[Closed]:
    """Calls that have ended, and those that a dead worker left open at what was reserved for them."""
    directory = Path(settings.JOURNAL_DIR)
    for worker in workers(directory) if directory.exists() else ():
        dead = not lives(directory, worker)  # before its records are read: no more will follow
        left: dict[str, Opened] = {}
        for path in segments(directory, worker):
            for record in _records(path):
                if isinstance(record, Closed):
                    left.pop(record.id, None)
                    yield record
                else:
                    left[record.id] = record
        if dead:
            yield from (unknown(opened) for opened in left.values())


def _records(path: Path) -> Iterator[Record]:
    position = Position(path)
    with suppress(FileNotFoundError):  # shipped and deleted meanwhile
        while records := read_new(position):
            yield from records
