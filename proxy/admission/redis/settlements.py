"""What this process still has to report to Redis: settlements first, none lost and none counted twice."""

import asyncio
import logging
import secrets
from collections import deque

from proxy.admission.redis.connection import RedisAway, RedisConnection, RedisRefused
from proxy.admission.redis.scripts import PREFIX, SETTLE, Record, packed, run

logger = logging.getLogger(__name__)

BATCH = 200  # records
COALESCE_SECONDS = 0.002


class Settlements:
    """Batches are numbered and sent in order, each until it is acknowledged."""

    def __init__(self, lease_ms: int) -> None:
        self.connection: RedisConnection | None = None
        self._key = f"{PREFIX}:batch:{secrets.token_hex(8)}"
        self._lease_ms = lease_ms
        self._records: deque[Record] = deque()
        self._unacknowledged: list[Record] = []
        self._number = 1
        self._task: asyncio.Task[None] | None = None

    def add(self, record: Record) -> None:
        self._records.append(record)
        if self._task is None and self.connection is not None:
            self._task = asyncio.get_running_loop().create_task(self._pump(self.connection))

    def __len__(self) -> int:
        return len(self._records) + len(self._unacknowledged)

    async def flush(self, connection: RedisConnection) -> None:
        """Raises RedisAway; then what was not acknowledged stays."""
        if self._task not in (None, asyncio.current_task()):
            await self._task  # of a connection that was lost: it ends at once
        while self._unacknowledged or self._records:
            if not self._unacknowledged:
                size = min(BATCH, len(self._records))
                self._unacknowledged = [self._records.popleft() for _ in range(size)]
            await run(
                connection, SETTLE, [self._key], self._number, self._lease_ms, packed(self._unacknowledged)
            )
            self._number += 1
            self._unacknowledged = []

    async def _pump(self, connection: RedisConnection) -> None:
        try:
            await asyncio.sleep(COALESCE_SECONDS)
            await self.flush(connection)
        except RedisAway:
            pass  # the client logs it, and flushes when Redis is back
        except RedisRefused as error:
            logger.error("Redis refused %d records of limits: %s", len(self), error)
            connection.close(f"refused: {error}")
        finally:
            self._task = None
