"""Two targets race for one request: the second is asked when the first takes too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from proxy.attempts.attempt import OTHER_WAS_FIRST
from proxy.attempts.reading import Answer
from proxy.calls.call import Call
from proxy.errors import GatewayError, UpstreamRejected

Ask = Callable[[], Coroutine[Any, Any, Answer]]
Racer = asyncio.Future[Answer]

_closing: set[asyncio.Future[None]] = set()  # the loop keeps only weak references to tasks


async def race(call: Call, first: Ask, second: Callable[[], Awaitable[Ask | None]], after: float) -> Answer:
    """The first good answer. Raises the first target's failure where there is none.

    `second` is asked for after `after` seconds, and gives None where no other target may be tried.
    The loser is cancelled, its connection closed; only the winner's answer counts as the call's.
    """
    started, spent = time.perf_counter(), call.upstream_ms
    racers: list[Racer] = [asyncio.ensure_future(first())]
    try:
        await asyncio.wait(racers, timeout=after)
        if not racers[0].done() and (ask := await second()) is not None:
            racers.append(asyncio.ensure_future(ask()))
        await _let_decide(racers)
    except BaseException as error:
        await _stop(racers, "" if isinstance(error, asyncio.CancelledError) else OTHER_WAS_FIRST)
        racers.clear()
        raise
    finally:
        # Both added their time; the caller waited once.
        call.upstream_ms = spent + (time.perf_counter() - started) * 1000
    try:
        await _stop(racers[1:], OTHER_WAS_FIRST)
    except BaseException:
        await _stop(racers[:1], "")
        racers.clear()
        raise
    del racers[1:]
    return racers.pop().result()  # a name for it would be a ring: a failure knows this frame


async def close(answer: Answer) -> None:
    """Goes on to its end even where the caller is cancelled meanwhile."""
    await _to_its_end(answer.aclose())


async def _let_decide(racers: list[Racer]) -> None:
    """Puts the one first whose result counts: the first answer.

    A stream that has sent only comments is one where the other target has failed.
    Where there is none the first target's failure, or the second's where only that one is the caller's fault.
    """
    waiting = set(racers)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        answered = [racer for racer in racers if racer.done() and _has_answer(racer)]
        begun = [racer for racer in answered if not _only_comments(racer)]
        if begun or (answered and not waiting):
            return _put_first((begun or answered)[0], racers)
        if racers[0] in done and isinstance(racers[0].exception(), UpstreamRejected):
            return None  # the caller's fault, which another target would only repeat
    for racer in reversed(racers):
        if isinstance(racer.exception(), UpstreamRejected):
            return _put_first(racer, racers)
    return None


def _has_answer(racer: Racer) -> bool:
    return not isinstance(racer.exception(), GatewayError)


def _only_comments(racer: Racer) -> bool:
    return racer.exception() is None and racer.result().opening is not None


def _put_first(racer: Racer, racers: list[Racer]) -> None:
    racers.remove(racer)
    racers.insert(0, racer)


async def _stop(losers: list[Racer], why: str) -> None:
    for loser in losers:
        loser.cancel(why or None)
    await _to_its_end(_close_all(losers))


async def _close_all(losers: list[Racer]) -> None:
    for result in await asyncio.gather(*losers, return_exceptions=True):
        if isinstance(result, Answer):  # it had answered too
            await result.aclose()


async def _to_its_end(closing: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(closing)
    _closing.add(task)
    task.add_done_callback(_closing.discard)
    await asyncio.shield(task)
