"""Each row against its seal: both are read once, in the order of their ids."""

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import transaction

from monitoring.audit import Difference, Differences
from monitoring.request_log.models import RequestLog, RowSeal
from monitoring.request_log.seals import COLUMNS, checksum, facts_of_row
from monitoring.shipping.storing import HOUR_NS, mark_stale

CHUNK = 2000


def differences(since: datetime | None = None) -> Differences:
    for call in _suspects(since):
        # Asked again: rows are shipped while the two lists are read.
        if why := _judge(call):
            yield Difference("rows", f"row {call} {why}")


def _suspects(since: datetime | None) -> Iterator[uuid.UUID]:
    after = {"received_at__gte": since} if since else {}
    rows = _in_order(RequestLog.objects.filter(**after).values(*COLUMNS))
    seals = _in_order(RowSeal.objects.filter(**after).values("id", "checksum"))
    row, seal = next(rows, None), next(seals, None)
    while row is not None or seal is not None:
        if seal is None or (row is not None and row["id"] < seal["id"]):
            assert row is not None
            yield row["id"]
            row = next(rows, None)
        elif row is None or seal["id"] < row["id"]:
            yield seal["id"]
            seal = next(seals, None)
        else:
            if checksum(facts_of_row(row)) != seal["checksum"]:
                yield row["id"]
            row, seal = next(rows, None), next(seals, None)


def _in_order(values: Any) -> Iterator[dict[str, Any]]:
    return iter(values.order_by("id").iterator(chunk_size=CHUNK))


def _judge(call: uuid.UUID) -> str:
    """What is wrong with a row; empty: nothing."""
    with transaction.atomic():
        row = RequestLog.objects.filter(pk=call).values(*COLUMNS).first()
        seal = RowSeal.objects.filter(pk=call).first()
    if row is None:
        if seal is None:
            return ""  # pruned meanwhile
        cost = "of unknown cost" if seal.cost_nano_usd is None else f"of {seal.cost_nano_usd} nano-USD"
        return f"was deleted: received {seal.received_at:%Y-%m-%d %H:%M:%S} UTC, {cost}"
    if seal is None:
        return "was added by hand: it has no seal"
    if checksum(facts_of_row(row)) == seal.checksum:
        return ""
    if row["cost_nano_usd"] != seal.cost_nano_usd:
        return f"was altered: its cost is {row['cost_nano_usd']}, and was {seal.cost_nano_usd} nano-USD"
    return "was altered: its checksum differs"


def seal_all() -> int:
    """Take all rows as they are now: how many got a new seal. Usage is summed up again."""
    count = 0
    for call in list(_suspects(None)):
        with transaction.atomic():
            row = RequestLog.objects.filter(pk=call).values(*COLUMNS).first()
            old = RowSeal.objects.filter(pk=call).values_list("received_at", flat=True).first()
            received = row["received_at"] if row else old
            if received is not None:
                mark_stale({int(received.timestamp()) * 10**9 // HOUR_NS})
            RowSeal.objects.filter(pk=call).delete()
            if row is not None:
                RowSeal.objects.create(
                    id=call,
                    received_at=row["received_at"],
                    checksum=checksum(facts_of_row(row)),
                    cost_nano_usd=row["cost_nano_usd"],
                )
        count += 1
    return count
