"""What this process still has to tell Redis: settlements first, none lost and none counted twice."""

import asyncio
import logging
import secrets
from collections import deque

import msgspec

from proxy.admission.redis_line import PREFIX, SETTLE, run
from proxy.admission.redis_link import RedisAway, RedisLink, RedisRefused

logger = logging.getLogger(__name__)

Record = tuple[str | int, ...]
"""As scripts/settle.lua reads it."""

BATCH = 200  # records
COALESCE_SECONDS = 0.002

packed = msgspec.msgpack.Encoder().encode


class Ledger:
    """Batches are numbered and sent in order, each until it is acknowledged."""

    def __init__(self, lease_ms: int) -> None:
        self.link: RedisLink | None = None
        self._key = f"{PREFIX}:batch:{secrets.token_hex(8)}"
        self._lease_ms = lease_ms
        self._records: deque[Record] = deque()
        self._doubtful: list[Record] = []  # sent, not acknowledged
        self._number = 1
        self._task: asyncio.Task[None] | None = None

    def add(self, record: Record) -> None:
        self._records.append(record)
        if self._task is None and self.link is not None:
            self._task = asyncio.get_running_loop().create_task(self._pump(self.link))

    def __len__(self) -> int:
        return len(self._records) + len(self._doubtful)

    async def flush(self, link: RedisLink) -> None:
        """Raises RedisAway; then what was not acknowledged stays."""
        if self._task not in (None, asyncio.current_task()):
            await self._task  # of a link that was lost: it ends at once
        while self._doubtful or self._records:
            if not self._doubtful:
                size = min(BATCH, len(self._records))
                self._doubtful = [self._records.popleft() for _ in range(size)]
            await run(link, SETTLE, [self._key], self._number, self._lease_ms, packed(self._doubtful))
            self._number += 1
            self._doubtful = []

    async def _pump(self, link: RedisLink) -> None:
        try:
            await asyncio.sleep(COALESCE_SECONDS)
            await self.flush(link)
        except RedisAway:
            pass  # the line logs it, and flushes when Redis is back
        except RedisRefused as error:
            logger.error("Redis refused %d records of limits: %s", len(self), error)
            link.close(f"refused: {error}")
        finally:
            self._task = None
