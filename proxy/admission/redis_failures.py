"""Failed log-ins of all web processes, counted in Redis; nobody waits for it."""

import asyncio
from collections.abc import Callable

from proxy.admission.redis_line import FAILED, PREFIX, RedisLine
from proxy.admission.redis_link import RedisAway

MINUTE_MS = 60_000
MOST_AT_ONCE = 64  # what is on top only this process counts


class SharedFailures:
    """`learn(who, total, seconds)` is told what Redis answers."""

    def __init__(self, line: RedisLine, learn: Callable[[str, int, float], None]) -> None:
        self._line = line
        self._learn = learn
        self._tasks: set[asyncio.Task[None]] = set()

    def tell(self, who: str) -> None:
        """From any thread."""
        if (loop := self._line.loop) is not None:
            loop.call_soon_threadsafe(self._send, who)

    def _send(self, who: str) -> None:
        if self._line.link is None or len(self._tasks) >= MOST_AT_ONCE:
            return
        task = asyncio.get_running_loop().create_task(self._count(who))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _count(self, who: str) -> None:
        try:
            total, left_ms = await self._line.run(FAILED, [f"{PREFIX}:failed:{who}"], MINUTE_MS)
        except RedisAway:
            return  # this process has counted it
        self._learn(who, int(total), int(left_ms) / 1000)
