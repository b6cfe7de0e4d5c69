"""How long an answer that is collected may be, and what a provider's large ones take together."""

import asyncio


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
