"""What comes in one turn of the event loop is handled together.

A processor's first cache for instructions holds less than a request needs from end to end. One step done for
all requests, then the next one, finds its code there; requests done one by one evict it for each other.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

Thing = TypeVar("Thing")
MOST_AT_ONCE = 64  # things; the others have the next turn, behind what else waits for one


class Together(Generic[Thing]):
    """Collects things; `handle` gets all of one turn of the event loop, and must not raise."""

    __slots__ = ("_handle", "_loop", "_things")

    def __init__(
        self, handle: Callable[[list[Thing]], None], loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """`loop`: None for whichever runs; to ask costs a call of the system for each turn."""
        self._handle = handle
        self._loop = loop
        self._things: list[Thing] = []

    def add(self, thing: Thing) -> None:
        self._things.append(thing)
        if len(self._things) == 1:
            (self._loop or asyncio.get_running_loop()).call_soon(self.handle_now)

    @property
    def any_waits(self) -> bool:
        return bool(self._things)

    def handle_now(self) -> None:
        things, self._things = self._things, []
        if len(things) > MOST_AT_ONCE:
            things, self._things = things[:MOST_AT_ONCE], things[MOST_AT_ONCE:]
            (self._loop or asyncio.get_running_loop()).call_soon(self.handle_now)
        self._handle(things)


def step_by_step(
    steps: Iterable[Callable[[Thing], None]],
    things: list[Thing],
    failed: Callable[[Thing, Exception], None],
) -> None:
    """Each step for all things before the next one.

    What raises takes no further step; `failed` hears of it.
    """
    for step in steps:
        out: set[int] = set()
        for thing in things:
            try:
                step(thing)
            except Exception as error:  # noqa: BLE001 whoever asks is told
                failed(thing, error)
                out.add(id(thing))
        if out:
            things = [thing for thing in things if id(thing) not in out]
