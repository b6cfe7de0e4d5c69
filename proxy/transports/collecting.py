"""Answers that are collected whole: how long one may be, and what a provider's large ones take together."""

import asyncio
from collections.abc import Awaitable, Callable

from proxy.transports.base import LONGEST_ERROR, ConnectionBroken, UpstreamResponse


class Room:
    """For a provider's large answers. The oldest may be as long as allowed; the others share half of that.

    Those that find no room wait, and the provider with them: each provider only for itself.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest  # bytes of one answer
        self._places: dict[Place, None] = {}  # the oldest first
        self._waiting: list[asyncio.Future[None]] = []

    def enter(self) -> "Place":
        place = Place(self)
        self._places[place] = None
        return place

    def fits(self, place: "Place") -> bool:
        oldest = next(iter(self._places))
        return place is oldest or sum(one.size for one in self._places) - oldest.size <= self.longest // 2

    async def change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def leave(self, place: "Place") -> None:
        self._places.pop(place, None)
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Place:
    """Of one answer."""

    def __init__(self, room: Room) -> None:
        self.size = 0
        self._room = room

    async def grow(self, size: int) -> None:
        """Returns when there is room for it."""
        self.size = size
        while not self._room.fits(self):
            await self._room.change()


async def collected(next_chunk: Callable[[], Awaitable[bytes]], room: Room, how: str = "") -> bytes:
    """Raises what next_chunk() raises, and ConnectionBroken for an answer that is too long."""
    parts, size, place = [], 0, room.enter()
    try:
        while chunk := await next_chunk():
            parts.append(chunk)
            size += len(chunk)
            if size > room.longest:
                raise ConnectionBroken(f"sent an answer of more than {room.longest:,} bytes{how}")
            await place.grow(size)
        return b"".join(parts)
    finally:
        room.leave(place)


async def beginning(response: UpstreamResponse) -> bytes:
    """Of an error: its status says most of it."""
    parts, size = [], 0
    while chunk := await response.next_chunk():
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_ERROR:
            await response.aclose()
            break
    return b"".join(parts)
