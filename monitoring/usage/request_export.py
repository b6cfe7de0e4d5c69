"""The requests behind a report, a chunk at a time, however many there are."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

from django.db.models import QuerySet

from monitoring.request_log.models import RequestLog
from monitoring.usage.csv_cells import safe
from monitoring.usage.report import GROUPS, Question

CHUNK = 1000  # rows in memory at once
COLUMNS = (
    "id",
    "received_at",
    "request_id",
    "outcome",
    "status",
    "key_name",
    "team",
    "route",
    "provider",
    "upstream_model",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cache_write_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "price",
    "cost_nano_usd",
    "tokens_estimated",
    "total_ms",
    "ttft_ms",
    "client_address",
    "user_agent",
)


def request_chunks(asked: Question) -> Iterator[list[dict[str, Any]]]:
    """By key, not by one long query: Postgres would write its whole result to disk before the first row."""
    tag = asked.where.get("tag")
    rows = _requests_of(asked).values(*COLUMNS, "tags")
    chunk = list(rows[:CHUNK])
    while chunk:
        yield [_shown(row) for row in chunk if tag is None or tag in row["tags"]]
        chunk = list(rows.filter(id__gt=chunk[-1]["id"])[:CHUNK])


def _requests_of(asked: Question) -> QuerySet[RequestLog]:
    """All but the tag."""
    where = {GROUPS[name]: value for name, value in asked.where.items() if name != "tag"}
    return RequestLog.objects.received(asked.start, asked.end).filter(**where).order_by("id")


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in COLUMNS}
    return safe(shown | {"received_at": row["received_at"].astimezone(UTC).isoformat()})
