"""Who waits for a slot of a pool, in an order that is fair between gateway keys."""

import asyncio
from collections import deque


class Evicted(Exception):
    """Who waited made room for a key that has fewer requests waiting."""


class FairQueue:
    """Takes turns by key. No key gets more than `most_held` slots while another waits.

    A full queue makes room for a key by turning away the last one of the key that has the most in it.
    """

    def __init__(self, most: int, most_held: float) -> None:
        self._most = most
        self._most_held = max(most_held, 1)
        self._turns: dict[int | None, deque[asyncio.Future[None]]] = {}  # by key, the next one's first
        self.waiting = 0

    def join(self, key: int | None) -> asyncio.Future[None] | None:
        """Done when it is called; it may raise Evicted. None: there is no room."""
        mine = self._turns.get(key)
        if self.waiting >= self._most and not self._make_room(len(mine or ())):
            return None
        if mine is None:
            mine = self._turns[key] = deque()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        mine.append(turn)
        self.waiting += 1
        return turn

    def leave(self, key: int | None, turn: asyncio.Future[None]) -> None:
        """Not called yet, and not called any more."""
        mine = self._turns.get(key)
        if mine is not None and turn in mine:
            mine.remove(turn)
            self._forget(key, mine)

    def call_next(self, held: dict[int | None, int]) -> bool:
        """Whether one was called: the slot is its key's. `held`: slots by key."""
        while self._turns:
            key = self._next_key(held)
            mine = self._turns.pop(key)
            turn = mine.popleft()
            self._turns[key] = mine  # behind all others
            self._forget(key, mine)
            if not turn.done():
                turn.set_result(None)
                held[key] = held.get(key, 0) + 1
                return True
        return False

    def _next_key(self, held: dict[int | None, int]) -> int | None:
        """The first whose share is not used up; where it is for all, the one that holds the least."""
        for key in self._turns:
            if held.get(key, 0) < self._most_held:
                return key
        return min(self._turns, key=lambda key: held.get(key, 0))

    def _make_room(self, mine: int) -> bool:
        """For a key that has `mine` waiting."""
        if not self._turns:
            return False
        key, longest = max(self._turns.items(), key=lambda item: len(item[1]))
        if len(longest) <= mine + 1:
            return False
        turn = longest.pop()
        self._forget(key, longest)
        if not turn.done():
            turn.set_exception(Evicted())
        return True

    def _forget(self, key: int | None, mine: deque[asyncio.Future[None]]) -> None:
        """One of the key's is out."""
        self.waiting -= 1
        if not mine:
            del self._turns[key]
