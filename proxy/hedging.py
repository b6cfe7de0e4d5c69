"""Two targets race for one request: the second is asked when the first takes too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from proxy.attempt import Answer
from proxy.call import Call
from proxy.errors import GatewayError

Ask = Callable[[], Coroutine[Any, Any, Answer]]


async def race(call: Call, first: Ask, second: Callable[[], Awaitable[Ask | None]], after: float) -> Answer:
    """The first good answer. Raises the first target's failure where there is none.

    `second` is asked for after `after` seconds, and gives None where no other target may be tried.
    The loser is cancelled, its connection closed; only the winner's answer counts as the call's.
    """
    started, spent = time.perf_counter(), call.upstream_ms
    racers: list[asyncio.Future[Answer]] = [asyncio.ensure_future(first())]
    try:
        await asyncio.wait(racers, timeout=after)
        if not racers[0].done() and (ask := await second()) is not None:
            racers.append(asyncio.ensure_future(ask()))
        return await _winner(racers)
    finally:
        await _stop(racers)
        # Both added their time; the caller waited once.
        call.upstream_ms = spent + (time.perf_counter() - started) * 1000


async def _winner(racers: list["asyncio.Future[Answer]"]) -> Answer:
    waiting = set(racers)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for racer in racers:
            if racer in done and not isinstance(racer.exception(), GatewayError):
                answer = racer.result()
                racers.remove(racer)
                return answer
    return racers[0].result()


async def _stop(losers: list["asyncio.Future[Answer]"]) -> None:
    for loser in losers:
        loser.cancel()
    for result in await asyncio.gather(*losers, return_exceptions=True):
        if isinstance(result, Answer):  # it had answered too
            await result.aclose()
