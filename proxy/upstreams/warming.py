"""Keeps idle connections ready for the providers that want some, beside the requests."""

import asyncio
import logging

from proxy.upstreams.pool import Upstreams
from routing.live import TableKeeper

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Warming:
    """A task on the event loop; it needs one, so the server's start-up starts it."""

    def __init__(self, upstreams: Upstreams, keeper: TableKeeper) -> None:
        self._upstreams = upstreams
        self._keeper = keeper
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            try:
                self._upstreams.follow(self._keeper.table)
            except Exception:
                logger.exception("connections are not kept warm")
            await asyncio.sleep(LOOK_SECONDS)
