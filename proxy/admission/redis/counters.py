"""What Redis counts for budgets, for whoever checks it or has it counted again; never on a request's path."""

from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings

from proxy.admission.redis.scripts import PREFIX

TIMEOUT_SECONDS = 2.0
HELD = b"h:"


@dataclass(frozen=True, slots=True)
class Counter:
    """One budget's in one period. `spent` None: it will be read from the log at its next use."""

    spent: int | None
    held: dict[str, int]  # nano-USD by call


def read_counter(base: str, period: str) -> Counter:
    """`base` and `period` as base_of() and period_id() give them. Raises redis.RedisError."""
    client, key = _client(), f"{base}:b:{period}"
    seconds, microseconds = client.time()
    # Holds whose lease has ended are given back when the budget is next used.
    alive = client.zrangebyscore(f"{key}:x", seconds * 1000 + microseconds // 1000, "+inf")
    fields: dict[bytes, bytes] = client.hgetall(key)
    spent = fields.get(b"s")
    held = {call.decode(): int(fields[HELD + call]) for call in alive if HELD + call in fields}
    return Counter(None if spent is None else int(spent), held)


def recount_budgets() -> None:
    """Let all budgets' spending be read from the log again, for what Redis did not hear of.

    Holds stay. Does nothing where limits are counted in the process. Raises redis.RedisError.
    """
    if not settings.REDIS_URL:
        return
    client = _client()
    for key in client.scan_iter(match=f"{PREFIX}:*:b:*", count=1000):
        if not key.endswith((b":x", b":p")):
            client.hdel(key, "s")


def _client() -> Any:
    return redis.Redis.from_url(
        settings.REDIS_URL, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
