"""Copies of requests to shadow targets: their answers are logged and thrown away."""

import asyncio
import logging
import random
import time

from proxy.accounting.account import Accounting
from proxy.admission.base import Admission
from proxy.admit import admit_alone
from proxy.answers.relay import Relay
from proxy.answers.whole import Whole, usage_of
from proxy.attempts.failover import Attempts
from proxy.attempts.reading import Answer
from proxy.calls.call import Call, Incoming
from proxy.continuing import Prefix
from proxy.errors import GatewayError, outcome_of
from proxy.targets.selection import Chooser
from proxy.targets.tags import tags_of
from routing.table import TargetEntry

logger = logging.getLogger(__name__)

MOST_IN_FLIGHT = 64  # per web process; what comes on top is not copied
LONGEST_SECONDS = 600.0


class Shadows:
    """Never delays or fails the real call: copies run in tasks of their own, a bounded number at once.

    A copy leaves a row of its own, under the same request id, with no key or team: its cost is nobody's
    budget. It has no part in the key's limits either; those of the target and its provider hold.
    """

    def __init__(
        self,
        attempts: Attempts,
        admission: Admission,
        accounting: Accounting,
        chooser: Chooser,
        dice: random.Random,
    ) -> None:
        self.dropped = 0  # copies not made, because too many were in flight
        self._attempts = attempts
        self._admission = admission
        self._accounting = accounting
        self._chooser = chooser
        self._dice = dice
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, call: Call) -> None:
        """Only asks for tasks; nothing is awaited."""
        assert call.route is not None
        # A caller who chose the provider, or pays for it, has not asked for another one.
        if call.caller_credential or b"x-litellm-route" in call.incoming.headers:
            return
        for target in call.route.route.shadows:
            if self._dice.random() < (target.shadow_share or 0.0) and self._wanted(call, target):
                self._copy(call, target)

    def _wanted(self, call: Call, target: TargetEntry) -> bool:
        if target.tags and not target.tags & tags_of(call):
            return False
        return not target.provider.unhealthy and self._chooser.may_try(target, call)

    def _copy(self, call: Call, target: TargetEntry) -> None:
        if len(self._tasks) >= MOST_IN_FLIGHT:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._run(_shadow_of(call), target))
        self._tasks.add(task)  # the loop keeps only weak references to tasks
        task.add_done_callback(self._done)

    async def _run(self, call: Call, target: TargetEntry) -> None:
        try:
            call.grant = await admit_alone(call, target, self._admission)
            call.target = target
            self._accounting.open(call)
            await asyncio.sleep(0)  # the journal writes its row
            answer = await self._attempts.only_answer(call, target)
        except GatewayError as error:
            call.error, call.status, call.outcome = error, error.status, outcome_of(error)
            self._accounting.close(call)
        except BaseException as error:
            call.outcome = "client_gone" if isinstance(error, asyncio.CancelledError) else "failed"
            self._accounting.close(call)
            raise
        else:
            await self._drain(call, answer)

    async def _drain(self, call: Call, answer: Answer) -> None:
        if not answer.stream:
            assert call.ask is not None
            call.usage = usage_of(answer, call.ask)
            return Whole(
                answer.response.status, answer.body, answer.content_type, call, self._accounting.close
            ).close()
        relay = Relay(call, answer, b"", self._accounting.close, _not_continued)
        try:
            async with asyncio.timeout(LONGEST_SECONDS):
                while await relay.next_chunk():
                    pass
        finally:
            await relay.aclose()
        return None

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a shadow call failed in the gateway", exc_info=error)

    async def aclose(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _not_continued(call: Call, prefix: Prefix) -> None:
    """A copy that breaks stays broken."""


def _shadow_of(call: Call) -> Call:
    """The same question without its key."""
    incoming = Incoming(call.incoming.endpoint, call.incoming.headers, b"", time.perf_counter())
    shadow = Call(incoming, call.table)
    shadow.shadow = True
    shadow.request_id = call.request_id
    shadow.ask, shadow.route = call.ask, call.route
    return shadow
