"""Step 5: try targets in order until one answers or the deadline passes."""

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

from proxy.admission.base import Admission, Grant
from proxy.admission.refusals import refused
from proxy.admit import admit_alone, admit_fallback, move
from proxy.attempts import fallbacks, hedging
from proxy.attempts.attempt import Asker
from proxy.attempts.backoff import backoff
from proxy.attempts.reading import Answer
from proxy.calls.call import Call
from proxy.continuing import Prefix
from proxy.errors import (
    GatewayError,
    PoolExhausted,
    RateLimited,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamRejected,
    UpstreamTimeout,
    forget_history,
)
from proxy.targets.selection import Chooser
from proxy.upstreams.deadline import Deadline, DeadlinePassed
from proxy.upstreams.pool import Upstreams
from routing.table import TargetEntry

READ_LATE = frozenset((b"x-litellm-timeout", b"x-litellm-num-retries"))
LOST = "its circuit opened meanwhile, or another request is trying it"


class Attempts:
    def __init__(
        self, upstreams: Upstreams, admission: Admission, chooser: Chooser, dice: random.Random
    ) -> None:
        self._asker = Asker(upstreams, chooser.board)
        self._admission = admission
        self._chooser = chooser
        self._dice = dice

    def begin(self, call: Call) -> None:
        """Send the request to its first target, if it can leave at once; first_answer() goes on with it.

        Not where a header could yet be refused, or another target may be asked beside it. give_up() must be
        called where first_answer() never is.
        """
        assert call.grant is not None
        assert call.route is not None
        if call.incoming.has_options and not READ_LATE.isdisjoint(call.incoming.headers):
            return
        position, last = call.grant.candidate, len(call.order) - 1
        hedges = position < last and call.route.route.hedge_after is not None
        if not (hedges or call.wait_first) and self._may_try(call, position):
            self._asker.begin(call, call.order[position])

    def give_up(self, call: Call) -> None:
        begun, call.begun = call.begun, None
        if begun is not None:
            begun.drop(call)

    async def first_answer(self, call: Call) -> Answer:
        """Starts with the target that the call's grant holds.

        Raises the GatewayError that the caller gets when no target answers.
        """
        assert call.route is not None
        seconds = deadline = call.route.route.deadline
        if (wanted := call.timeout_header) is not None:
            seconds = min(wanted, deadline)
        call.deadline_at = call.incoming.received + seconds
        left = call.deadline_at - time.perf_counter()
        try:
            with (limit := Deadline(left)):
                if 0 < call.wait_first < left:
                    await _pause(call, call.wait_first)
                answer = await self._try_all(call)
        except DeadlinePassed:
            rule = "the route's deadline" if seconds >= deadline else "the caller's x-litellm-timeout"
            late = UpstreamTimeout(f"No provider answered within {seconds:g} s ({rule}).")
            if call.trial is not None and seconds >= deadline:
                call.trial.failed(late)  # a shorter time-out of the caller's own is no fault
            raise late from None
        if answer.opening is not None:
            answer.opening.hurry(limit.due)
        call.target = answer.target
        return answer

    async def only_answer(self, call: Call, target: TargetEntry) -> Answer:
        """One target's answer, asked once. Raises its GatewayError."""
        assert call.route is not None
        call.target = target
        try:
            with Deadline(call.route.route.deadline):
                return await self._asker.ask(call, target)
        except DeadlinePassed:
            raise UpstreamTimeout(provider=target.provider.slug) from None

    async def continued_answer(self, call: Call, prefix: Prefix) -> Answer | None:
        """The rest of a stream that broke, from a target that takes the beginning; None where none does."""
        assert call.route is not None
        spent = call.upstream_ms  # what comes now is no part of the way to the first byte
        try:
            with (limit := Deadline(call.route.route.deadline)):
                answer = await self._continue(call, prefix)
        except DeadlinePassed:
            return None
        finally:
            call.upstream_ms = spent
        if answer is not None and answer.opening is not None:
            answer.opening.hurry(limit.due)
        return answer

    async def _continue(self, call: Call, prefix: Prefix) -> Answer | None:
        assert call.target is not None
        position = call.order.index(call.target) + 1
        served = call.route, call.fell_back_from
        while True:
            for place in range(position, len(call.order)):
                if answer := await self._continue_at(call, place, prefix):
                    return answer
            position = len(call.order)
            if self._spent(call) or not fallbacks.next_fallback(call, fallbacks.ERROR, self._chooser):
                call.route, call.fell_back_from = served
                return None

    async def _continue_at(self, call: Call, position: int, prefix: Prefix) -> Answer | None:
        target = call.order[position]
        if not target.provider.continues or self._chooser.lost(position, call) or self._spent(call):
            return None
        assert call.grant is not None
        try:
            await admit_fallback(call, position, self._admission, position + 1)
            answer = await self._asker.ask(call, target, prefix)
            if not answer.stream:
                return None  # a whole JSON answer can't be joined to a stream
        except GatewayError:  # the trail has it; the caller is told of the cut, not of this
            return None
        call.target = target
        return answer

    async def _try_all(self, call: Call) -> Answer:
        assert call.grant is not None
        failures: list[GatewayError] = []
        kind = fallbacks.ERROR
        while True:
            position = call.grant.candidate
            if call.begun is not None or self._may_try(call, position):
                try:
                    return await self._try_or_hedge(call, position, failures)
                except UpstreamRejected as failure:
                    if failure.others_may_take and position < len(call.order) - 1:
                        failures.append(failure)
                        await self._go_on(call, position + 1, failures, fallbacks.CONTEXT)
                        continue
                    # From here on only routes of this list: those for other errors would reject it as well.
                    kind = fallbacks.kind_of(failure) or ""
                    if not kind or not await self._fall_back(call, kind):
                        raise
                    continue
                except (UpstreamError, PoolExhausted, RateLimited) as failure:
                    forget_history(failure)
                    failures.append(failure)
                    if type(failure) is RateLimited:
                        call.skip(call.order[position], failure.message)
            else:
                call.skip(call.order[position], LOST)
            await self._go_on(call, position + 1, failures, kind)

    async def _go_on(self, call: Call, position: int, failures: list[GatewayError], kind: str) -> None:
        """Let the grant hold the next target that may be tried. Raises the verdict where there is none."""
        assert call.grant is not None
        last = len(call.order) - 1
        while position <= last and self._is_passed_over(call, position):
            position += 1
        if position <= last and not self._spent(call):
            try:
                return await move(call, position, last + 1)
            except RateLimited as failure:
                forget_history(failure)
                failures.append(failure)
        if self._spent(call) or not await self._fall_back(call, kind):
            raise _verdict(call, failures)
        return None

    def _may_try(self, call: Call, position: int) -> bool:
        """Whether its circuit is closed, or nothing better is left."""
        if not self._chooser.lost(position, call):
            return True
        better = position < len(call.order) - 1 or fallbacks.any_left(call, fallbacks.ERROR)
        return not (better or call.last_resorts)

    def _is_passed_over(self, call: Call, position: int) -> bool:
        if call.order[position] is call.hedged:
            return True  # it has failed in the race
        lost = not self._may_try(call, position)
        if lost:
            call.skip(call.order[position], LOST)
        return lost

    async def _fall_back(self, call: Call, kind: str) -> bool:
        """Whether a fallback route of this kind was found; the grant then holds one of its targets."""
        assert call.grant is not None
        while not self._spent(call):
            position = len(call.order)
            if not fallbacks.next_fallback(call, kind, self._chooser) and not (
                kind == fallbacks.ERROR and fallbacks.take_last_resort(call)
            ):
                return False
            try:
                await admit_fallback(call, position, self._admission)
            except RateLimited:
                continue  # noted in the grant's skipped
            return True
        return False

    def _spent(self, call: Call) -> bool:
        """Whether the request has been sent as often as its route allows."""
        route = call.fell_back_from or call.route
        assert route is not None
        return len(call.attempts) >= route.route.max_attempts

    def _try_or_hedge(
        self, call: Call, position: int, failures: list[GatewayError]
    ) -> Coroutine[Any, Any, Answer]:
        assert call.route is not None
        after = call.route.route.hedge_after
        if after is None or position == len(call.order) - 1:
            return self._try_target(call, call.order[position], failures)
        return self._hedged(call, position, failures, after)

    async def _hedged(self, call: Call, position: int, failures: list[GatewayError], after: float) -> Answer:
        target = call.order[position]
        hedge = _Hedge(call, position + 1, self)
        try:
            answer = await hedging.race(
                call, lambda: self._try_target(call, target, failures), hedge.ready, after
            )
        except GatewayError:
            failures += hedge.failures
            raise
        finally:
            hedge.over()
        if answer.target is not target:
            await hedge.won(answer)
        return answer

    async def ask_second(self, call: Call, position: int) -> tuple[Grant, hedging.Ask] | None:
        """The second target of a race, with a hold of its own; None where it may not be tried."""
        target = call.order[position]
        if self._spent(call) or self._chooser.lost(position, call):
            return None
        try:
            grant = await admit_alone(call, target, self._admission)
        except GatewayError:
            return None
        return grant, lambda: self._asker.ask(call, target)

    async def _try_target(self, call: Call, target: TargetEntry, failures: list[GatewayError]) -> Answer:
        """Tries one target and its retries. Raises the last failure."""
        assert call.grant is not None
        wanted = call.retries_header
        retries = target.provider.retries if wanted is None else wanted
        number = 0
        while True:
            try:
                return await self._asker.ask(call, target)
            except UpstreamError as failure:
                if (pause := self._pause_before(call, target, failure, number, retries)) is None:
                    raise
                forget_history(failure)
                failures.append(failure)
                await _pause(call, pause)
            # A retry is a further request: it counts against the target's limits.
            position = call.grant.candidate
            await move(call, position, position + 1)
            number += 1

    def _pause_before(
        self, call: Call, target: TargetEntry, failure: UpstreamError, number: int, retries: int
    ) -> float | None:
        """Seconds before the same target is asked once more; None where it isn't."""
        if (pause := _wait_for_preferred(call, target, failure)) is not None:
            call.waited = True
        elif number < retries and self._is_worth_a_retry(call, target, failure):
            pause = backoff(target.provider.retry_delay, number, failure.retry_after, self._dice)
        else:
            return None
        # Nobody would be there to get the answer after the deadline.
        return pause if pause < call.deadline_at - time.perf_counter() and not self._spent(call) else None

    def _is_worth_a_retry(self, call: Call, target: TargetEntry, failure: UpstreamError) -> bool:
        """Whether the same target should be asked once more before others are."""
        if not failure.worth_a_retry or self._spent(call):
            return False
        if target is call.order[-1] and not fallbacks.any_left(call, fallbacks.ERROR):
            return True
        # Another target may answer at once, where this one has said that it won't yet.
        told_to_wait = isinstance(failure, UpstreamRateLimited) or failure.retry_after is not None
        return not told_to_wait and self._chooser.may_try(target, call)


class _Hedge:
    """The second target of a race, with its own hold on the target's limits while the race is open."""

    def __init__(self, call: Call, position: int, attempts: Attempts) -> None:
        self.failures: list[GatewayError] = []
        self._call = call
        self._position = position
        self._attempts = attempts
        self._grant: Grant | None = None

    async def ready(self) -> hedging.Ask | None:
        found = await self._attempts.ask_second(self._call, self._position)
        if found is None:
            return None
        self._grant, ask = found
        return lambda: self._ask(ask)

    async def _ask(self, ask: hedging.Ask) -> Answer:
        try:
            return await ask()
        except GatewayError as failure:
            self.failures.append(failure)
            self._call.hedged = self._call.order[self._position]
            raise

    def over(self) -> None:
        for failure in self.failures:
            forget_history(failure)
        if self._grant is not None:
            self._grant.settle(0, 0)

    async def won(self, answer: Answer) -> None:
        """The call's own grant holds the winner from now on, and settles what it cost."""
        call = self._call
        assert call.grant is not None
        try:
            await move(call, self._position, self._position + 1)
        except GatewayError as full:  # others took the room in between; the answer is here all the same
            call.skip(answer.target, full.message)
        except BaseException:
            await hedging.close(answer)
            raise


def _wait_for_preferred(call: Call, target: TargetEntry, failure: UpstreamError) -> float | None:
    """Seconds that the provider said, where the route would rather wait than ask another target."""
    assert call.route is not None
    most = call.route.route.wait_for_preferred
    if most is None or call.waited or target is not call.order[0]:
        return None
    if not isinstance(failure, UpstreamRateLimited) or failure.told_wait is None:
        return None
    return failure.told_wait if failure.told_wait <= most else None


async def _pause(call: Call, seconds: float) -> None:
    started = time.perf_counter()
    try:
        await asyncio.sleep(seconds)
    finally:
        call.upstream_ms += (time.perf_counter() - started) * 1000


def _verdict(call: Call, failures: list[GatewayError]) -> GatewayError:
    """What the caller is told when no target answered."""
    if call.grant is not None and call.demand is not None and call.grant.skipped:
        failures = [*failures, refused(call.grant.skipped, call.demand)]
    others = [failure for failure in failures if failure.status != 429]
    if others:
        return others[-1]
    # Every target is at a limit: the one that frees first says when to come back.
    return min(failures, key=lambda failure: failure.retry_after or 0.0)
