"""Reads a body under ASGI: so many bytes, fast enough, and only where there is room."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.bodies.budget import Intake
from proxy.errors import BodiesInFlight, RequestTimeout, RequestTooLarge

Receive = Callable[[], Awaitable[dict[str, Any]]]


class ClientGone(Exception):
    """The client hung up before its request was whole."""


def address_of(scope: Any) -> str:
    return scope["client"][0] if scope.get("client") else ""


def announced(scope: Any) -> int | None:
    """The length of the body; None where only its end tells."""
    length = None
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value) if value.isdigit() else None
    return length or 0


async def read_body(scope: Any, receive: Receive, limit: int, intake: Intake) -> bytes:
    """Raises ClientGone, RequestTooLarge, RequestTimeout, BodiesInFlight."""
    if (announced(scope) or 0) > limit:
        raise RequestTooLarge.over(limit)
    evicted = False
    try:
        async with asyncio.timeout(None) as patience:

            def evict() -> None:
                nonlocal evicted
                evicted = True
                patience.reschedule(0)

            intake.evict = evict
            return await _whole(receive, limit, intake, patience)
    except TimeoutError:
        if evicted:
            raise BodiesInFlight(retry_after=1) from None
        raise RequestTimeout("The body did not arrive in time.") from None
    finally:
        intake.end()


async def _whole(receive: Receive, limit: int, intake: Intake, patience: asyncio.Timeout) -> bytes:
    parts, size, more = [], 0, True
    now = asyncio.get_running_loop().time
    while more:
        patience.reschedule(now() + intake.deadline - time.perf_counter())
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > limit:
            raise RequestTooLarge.over(limit)
        intake.grow_to(size)
    return b"".join(parts)
