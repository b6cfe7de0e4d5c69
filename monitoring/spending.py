"""What the request log says an owner of a budget has spent."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from django.db.models import Q, Sum

from monitoring.models import RequestLog
from routing.models import ModelRoute, Provider, Team
from routing.table import Claim

_ROWS_OF = {
    "key": lambda claim: Q(key_id=claim.id),
    "team": lambda claim: Q(team=claim.name),
    "route": lambda claim: Q(route=claim.name),
    "target": lambda claim: Q(target_id=claim.id),
    "provider": lambda claim: Q(provider=claim.name),
}

_KNOWN_BY_NAME: dict[str, Any] = {"team": Team, "route": ModelRoute, "provider": Provider}


def spent(claim: Claim, start: float | None, end: float | None, leave_out: Collection[str] = ()) -> int:
    """Nano-USD of the calls that arrived from start until before end (Unix seconds, None is open)."""
    rows = RequestLog.objects.filter(_ROWS_OF[claim.kind](claim))
    if claim.kind in _KNOWN_BY_NAME:
        # What an earlier owner of the name spent is not this one's.
        model = _KNOWN_BY_NAME[claim.kind]
        rows = rows.filter(received_at__gte=model.objects.values("created_at").get(pk=claim.id)["created_at"])
    if start is not None:
        rows = rows.filter(received_at__gte=datetime.fromtimestamp(start, UTC))
    if end is not None:
        rows = rows.filter(received_at__lt=datetime.fromtimestamp(end, UTC))
    if leave_out:
        rows = rows.exclude(pk__in=leave_out)
    return rows.aggregate(total=Sum("cost_nano_usd"))["total"] or 0
