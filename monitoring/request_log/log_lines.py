"""A log line for each request that is over, for those who collect logs: LOG_REQUESTS says for which.

Written by the shipper's process, off the request path. A request that is shipped again after a crash
has a second line with the same ids.
"""

import logging
from collections.abc import Iterable

from django.conf import settings

from proxy.journal.records import Closed

logger = logging.getLogger("switchstand.requests")

FIELDS = (
    "request_id",
    "outcome",
    "status",
    "error_code",
    "endpoint",
    "stream",
    "model",
    "key_name",
    "team",
    "route",
    "provider",
    "upstream_model",
    "attempts",
    "input_tokens",
    "output_tokens",
    "cost_nano_usd",
    "total_ms",
    "ttft_ms",
    "overhead_ms",
)


def write_lines(calls: Iterable[Closed]) -> None:
    if settings.LOG_REQUESTS != "none":
        for call in calls:
            if settings.LOG_REQUESTS == "all" or call.outcome != "answered":
                _write(call)


def _write(call: Closed) -> None:
    """With LOG_FORMAT=json the fields are the object's own; the text has what finds a request."""
    fields = {name: getattr(call, name) for name in FIELDS}
    text = "request %s: %s %s, %s"
    logger.info(
        text,
        call.request_id,
        call.status or "-",
        call.outcome,
        call.route or "-",
        extra=fields | {"call_id": call.id},
    )
