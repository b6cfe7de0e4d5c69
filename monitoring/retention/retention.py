"""Takes old rows from the request log. Their usage stays, archived in the transaction that takes them."""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

from django.db import OperationalError, transaction
from django.db.models import QuerySet
from django.db.models.functions import TruncHour

from monitoring.content.models import RequestContent
from monitoring.request_log.models import RequestLog, RowSeal
from monitoring.retention import partitions
from monitoring.shipping.storing import HOUR_NS, mark_stale
from monitoring.usage import sums
from monitoring.usage.archiving import archive
from monitoring.usage.models import StaleHour, UsageHour
from monitoring.usage.rollups import hour_of, replace_hour, roll_hour, rows_of, usage_of
from routing.models import GatewaySettings

logger = logging.getLogger(__name__)

BATCH = 2000  # rows that one transaction deletes: SQLite has one writer, and the shipper waits for it
TRIES = 3


def prune_log(now: datetime) -> int:
    """Take the days that GatewaySettings keeps no longer; how many rows went one by one."""
    before = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    before -= timedelta(days=GatewaySettings.load().log_days)
    if partitions.in_use():
        _drop_days(before)
    return _delete_rows(before)


def prune_content(now: datetime) -> None:
    """Content has days of its own, and goes with its row at the latest."""
    settings = GatewaySettings.load()
    before = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    before -= timedelta(days=min(settings.content_days, settings.log_days))
    for part in partitions.existing(RequestContent) if partitions.in_use() else ():
        if part.day < before.date():
            _drop_alone(part)
    _delete_old(RequestContent, before)


def _drop_alone(part: partitions.Day) -> None:
    try:
        with transaction.atomic():
            partitions.drop(part)
    except OperationalError as error:
        logger.warning("%s not dropped, will try again: %s", part.name, error)


def _delete_old(model: Any, before: datetime) -> None:
    rows = model.objects.filter(received_at__lt=before).order_by("received_at")
    while ids := list(rows.values_list("pk", flat=True)[:BATCH]):
        model.objects.filter(pk__in=ids).delete()


def _drop_days(before: datetime) -> None:
    seals = {part.day: part for part in partitions.existing(RowSeal)}
    rows = {part.day: part for part in partitions.existing(RequestLog)}
    for day in sorted(seals.keys() | rows.keys()):
        if day >= before.date():
            return
        try:
            _drop(rows.get(day), seals.get(day))
        except OperationalError as error:
            logger.warning("the log of %s not dropped, will try again: %s", day, error)


@transaction.atomic
def _drop(rows: partitions.Day | None, seals: partitions.Day | None) -> None:
    if rows is not None:
        first, after = rows.bounds
        partitions.close(rows)
        kept = RequestLog.objects.filter(id__gte=first, id__lt=after).order_by()
        hours = sorted(set(kept.values_list(TruncHour("received_at"), flat=True).distinct()))
        _archive(hours, kept)
        partitions.drop(rows)
        for hour in hours:
            replace_hour(hour)
    if seals is not None:
        partitions.drop(seals)


def _archive(hours: Iterable[datetime], rows: QuerySet[RequestLog]) -> None:
    """The usage of rows that this transaction takes."""
    for hour in hours:
        sums.lock_day(sums.day_of(hour))
        mine = rows & rows_of(hour)
        found = list(usage_of(hour, mine))
        for usage in found:
            usage.archived = True
        UsageHour.objects.bulk_create(found, batch_size=500)


def _delete_rows(before: datetime) -> int:
    """Hour by hour, a batch at a time."""
    done = 0
    while oldest := RequestLog.objects.filter(received_at__lt=before).order_by("received_at").first():
        deleted = _delete_some(hour_of(oldest.received_at))
        if not deleted:
            break  # rows of that hour keep coming: next time
        done += deleted
    _delete_old(RowSeal, before)
    return done


def _delete_some(hour: datetime) -> int:
    """How many rows; 0 where the hour was changed at each try."""
    for _ in range(TRIES):
        roll_hour(hour)
        state = sums.state_of(sums.day_of(hour))
        ids = list(rows_of(hour).order_by("received_at").values_list("pk", flat=True)[:BATCH])
        taken = list(usage_of(hour, RequestLog.objects.filter(pk__in=ids)))
        if _delete_batch(hour, ids, taken, state):
            return len(ids)
    return 0


@transaction.atomic
def _delete_batch(hour: datetime, ids: list[UUID], taken: list[UsageHour], state: sums.State) -> bool:
    """Only where the hour's usage is what its rows say, and still as it was when `taken` was summed up."""
    day = sums.day_of(hour)
    sums.lock_day(day)
    if StaleHour.objects.filter(hour=hour).exists() or sums.state_of(day) != state:
        return False
    if not archive(hour, taken):
        mark_stale({int(hour.timestamp()) * 10**9 // HOUR_NS})  # altered by hand: summed up anew
        return False
    RequestLog.objects.filter(pk__in=ids).delete()
    RowSeal.objects.filter(pk__in=ids).delete()
    return True
