"""What a budget had spent before its counter was there: from the log, once for all who wait."""

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from proxy.admission.base import Spent
from proxy.errors import GatewayError, LimitsUnavailable
from routing.table import LimitOwner

logger = logging.getLogger(__name__)


class Seeding:
    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._running: dict[tuple[str, int, float | None], asyncio.Task[None]] = {}

    async def once(
        self, owner: LimitOwner, start: float | None, seed: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        """Await seed(), which all callers for the same owner and period share."""
        question = (owner.kind, owner.id, start)
        task = self._running.get(question)
        if task is None:
            task = self._running[question] = asyncio.create_task(seed())
            task.add_done_callback(lambda _: self._running.pop(question, None))
        # Shielded: one caller that hangs up must not end the question of all.
        await asyncio.shield(task)

    async def spent(
        self, owner: LimitOwner, start: float | None, end: float | None, leave_out: Collection[str] = ()
    ) -> int:
        """Nano-USD. Raises LimitsUnavailable: spending that is not known never counts as none."""
        try:
            return await asyncio.to_thread(self._spent, owner, start, end, leave_out)
        except GatewayError:
            raise
        except Exception as error:
            logger.error("spending of %s %s is not known: %s", owner.kind, owner.name, error)
            raise LimitsUnavailable(
                "What a budget of this request has spent can't be read now: try again.", retry_after=1
            ) from error
