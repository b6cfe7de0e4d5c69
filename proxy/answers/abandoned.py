"""Streams whose caller is gone: read on to their end where that tells what they cost, within bounds."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one stream: seconds and bytes; and how many at once, per web process."""

    seconds: float
    bytes: int
    at_once: int


class Abandonable(Protocol):
    """A relay, as far as it matters here."""

    async def read_on(self, most_bytes: int) -> None:
        """To the end of the stream, or of so many bytes."""

    def account(self) -> None:
        """The call is over."""

    async def let_go(self) -> None:
        """Close the connection to the provider."""


class Abandoned:
    """Each stream is read on in a task of its own; its call is accounted for when it ends."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, relay: Abandonable, seconds: float | None) -> bool:
        """False where too many are read on already. `seconds`: None for the usual bound."""
        if len(self._tasks) >= self._bounds.at_once:
            return False
        limit = self._bounds.seconds if seconds is None else min(seconds, self._bounds.seconds)
        task = asyncio.get_running_loop().create_task(self._read_on(relay, limit))
        self._tasks.add(task)  # the loop keeps only weak references to tasks
        task.add_done_callback(self._done)
        return True

    async def _read_on(self, relay: Abandonable, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await relay.read_on(self._bounds.bytes)
        except TimeoutError:
            logger.debug("an abandoned stream was not over within %g s", seconds)
        finally:
            relay.account()  # before any await: it must not be cancelled half-way
            await asyncio.shield(relay.let_go())

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("reading an abandoned stream failed in the gateway", exc_info=error)

    async def aclose(self) -> None:
        """The process ends: what was read until now is accounted for."""
        tasks = list(self._tasks)
        # One turn first: a task that is cancelled before it began never comes to its `finally`.
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
