"""Failed log-ins of all web processes, counted in Redis; nobody waits for it."""

import asyncio
from collections.abc import Callable

from proxy.admission.redis.client import RedisClient
from proxy.admission.redis.connection import RedisAway
from proxy.admission.redis.scripts import FAILED, PREFIX

MINUTE_MS = 60_000
MOST_AT_ONCE = 64  # what is on top only this process counts


class SharedFailures:
    """`learn(who, total, seconds)` gets what Redis answers."""

    def __init__(self, client: RedisClient, learn: Callable[[str, int, float], None]) -> None:
        self._client = client
        self._learn = learn
        self._tasks: set[asyncio.Task[None]] = set()

    def count(self, who: str) -> None:
        """From any thread."""
        if (loop := self._client.loop) is not None:
            loop.call_soon_threadsafe(self._send, who)

    def _send(self, who: str) -> None:
        if self._client.connection is None or len(self._tasks) >= MOST_AT_ONCE:
            return
        task = asyncio.get_running_loop().create_task(self._ask(who))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _ask(self, who: str) -> None:
        try:
            total, left_ms = await self._client.run(FAILED, [f"{PREFIX}:failed:{who}"], MINUTE_MS)
        except RedisAway:
            return  # this process has counted it
        self._learn(who, int(total), int(left_ms) / 1000)
