"""Gives requests whose price was unknown the cost that an admin's price makes, a batch at a time.

All of a batch is one transaction: rows, seals, the hours to sum up again and how far it came. So it may
stop anywhere and go on, twice at once, or again: a row that has a cost is never touched.
"""

import logging
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Max, Min, Q, QuerySet, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone

from monitoring.pricing.models import Repricing
from monitoring.request_log.models import RequestLog, RowSeal
from monitoring.request_log.seals import COLUMNS, checksum, facts_of_row
from monitoring.shipping.storing import HOUR_NS, mark_stale
from proxy.admission.redis.counters import recount_budgets
from proxy.metering.usage import More, Usage, cost
from routing.price import Price, price_from_text
from routing.publishing import publish_recount

logger = logging.getLogger(__name__)

BATCH = 200  # rows; SQLite lets nobody else write meanwhile


def unpriced() -> QuerySet[RequestLog]:
    """Rows with tokens that have no cost: by an index of their own, whatever the size of the log."""
    known = Q(input_tokens__isnull=False) | Q(output_tokens__isnull=False)
    return RequestLog.objects.filter(known, cost_nano_usd=None, attempts__gt=0).order_by()


def groups() -> list[dict[str, Any]]:
    """Requests and tokens of each provider and model with such rows, the most requests first."""
    found = unpriced().values("provider", "upstream_model")
    counted = found.annotate(
        requests=Count("pk"),
        given=Coalesce(Sum("input_tokens"), 0),
        made=Coalesce(Sum("output_tokens"), 0),
        first=Min("received_at"),
        last=Max("received_at"),
    )
    return list[Any](counted.order_by("-requests", "provider", "upstream_model"))


def run_all() -> None:
    for job in Repricing.objects.filter(finished_at=None).order_by("pk"):
        run(job)


def run(job: Repricing) -> None:
    """To its end. Budgets then read what was spent anew, also if an earlier run died before that."""
    price = price_from_text(job.price)
    while _batch(job.pk, price):
        pass
    recount_budgets()
    with transaction.atomic():
        publish_recount()
        Repricing.objects.filter(pk=job.pk, finished_at=None).update(finished_at=timezone.now())
    logger.info("repriced %s", job)


def _batch(job_id: int, price: Price) -> int:
    """How many rows were looked at."""
    with transaction.atomic():
        # Locked: a second worker goes on where this one stops.
        job = Repricing.objects.select_for_update().get(pk=job_id)
        rows = _next_rows(job)
        for row in rows:
            _reprice(job, row, price)
        if rows:
            mark_stale(_hours(row["received_at"] for row in rows))
            job.last = rows[-1]["id"]
            job.save()
    return len(rows)


def _next_rows(job: Repricing) -> list[dict[str, Any]]:
    rows = unpriced().filter(provider=job.provider, upstream_model=job.upstream_model)
    if job.last is not None:
        rows = rows.filter(pk__gt=job.last)
    return list(rows.order_by("pk").values(*COLUMNS)[:BATCH])


def _reprice(job: Repricing, row: dict[str, Any], price: Price) -> None:
    """A row that was altered by hand stays as it is: a new seal would hide that."""
    seal = RowSeal.objects.filter(pk=row["id"])
    if checksum(facts_of_row(row)) != seal.values_list("checksum", flat=True).first():
        job.left_out += 1
        return
    usage = usage_of(row)
    row["cost_nano_usd"], row["price"] = cost(usage, price), price.text
    same = RequestLog.objects.filter(pk=row["id"], received_at=row["received_at"])
    if same.filter(cost_nano_usd=None).update(cost_nano_usd=row["cost_nano_usd"], price=row["price"]):
        seal.update(checksum=checksum(facts_of_row(row)), cost_nano_usd=row["cost_nano_usd"])
        job.requests += 1
        job.cost_nano_usd += row["cost_nano_usd"]


def usage_of(row: dict[str, Any]) -> Usage:
    """What a row of the log says was used."""
    return Usage(
        input=row["input_tokens"] or 0,
        output=row["output_tokens"] or 0,
        cached=row["cached_tokens"] or 0,
        reasoning=row["reasoning_tokens"] or 0,
        more=More(*(row[f"{name}_tokens"] or 0 for name in More.__struct_fields__)),
        estimated=row["tokens_estimated"],
    )


def _hours(moments: Iterable[datetime]) -> set[int]:
    return {int(moment.timestamp()) * 10**9 // HOUR_NS for moment in moments}
