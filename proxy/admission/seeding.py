"""What a budget had spent before its counter was there: from the log, once for all who wait."""

import asyncio
import logging
from collections.abc import Collection
from uuid import UUID

from proxy.admission.base import Spent
from proxy.errors import LimitsUnavailable
from routing.table import Claim

logger = logging.getLogger(__name__)

_Question = tuple[str, int, float | None]


class Seeding:
    def __init__(self, spent: Spent) -> None:
        self._spent = spent
        self._asked: dict[_Question, asyncio.Task[int]] = {}

    async def spent(
        self, claim: Claim, start: float | None, end: float | None, leave_out: Collection[UUID] = ()
    ) -> int:
        """Nano-USD. Raises LimitsUnavailable: spending that is not known never counts as none."""
        question = (claim.kind, claim.id, start)
        task = self._asked.get(question)
        if task is None:
            task = asyncio.create_task(asyncio.to_thread(self._spent, claim, start, end, leave_out))
            self._asked[question] = task
            task.add_done_callback(lambda _: self._asked.pop(question, None))
        try:
            # Shielded: one caller that hangs up must not end the question of all.
            return await asyncio.shield(task)
        except Exception as error:
            logger.error("spending of %s %s is not known: %s", claim.kind, claim.name, error)
            raise LimitsUnavailable(
                "What this budget has spent can't be read now: try again.", retry_after=1
            ) from error
