"""What request bodies may take of the process: bytes held at once, shared fairly, and time to arrive."""

import time
from collections import deque
from collections.abc import Callable

from proxy.errors import BodiesInFlight

SHARE = 4  # a holder may have so much of the budget while others wait: a quarter
WAIT_SECONDS = 2.0  # for so long one who was told to try again counts as waiting
MOST_WAITING = 1000
SLOWEST_BODY = 500  # bytes per second


def _nothing() -> None:
    return None


class Intake:
    """One body, from its first bytes until it is let go."""

    __slots__ = ("_budget", "_marks", "_seconds", "evict", "holder", "size")

    def __init__(
        self, budget: "BodyBudget", holder: str, seconds: float, evict: Callable[[], None] = _nothing
    ) -> None:
        """`evict` is called where it has to make room for others, and has to release()."""
        self._budget = budget
        self._seconds = seconds
        self._marks = deque([(time.perf_counter(), 0)])  # when how much had arrived
        self.holder = holder
        self.evict = evict
        self.size = 0
        budget.begin(self)

    def grow_to(self, size: int) -> None:
        """So much of it is here. Raises BodiesInFlight."""
        if size == self.size:
            return
        self._budget.take(self, size - self.size)
        marks, enough = self._marks, SLOWEST_BODY * self._seconds
        marks.append((time.perf_counter(), self.size))
        self.size = size
        while len(marks) > 1 and size - marks[1][1] >= enough:
            marks.popleft()

    def restart(self) -> None:
        """Until now it was not its sender who was slow."""
        self._marks = deque([(time.perf_counter(), self.size)])

    @property
    def deadline(self) -> float:
        """perf_counter() at which it has been too slow over `seconds`, if nothing more comes until then."""
        return self._marks[0][0] + self._seconds

    def end(self) -> None:
        """It is whole: it need not hurry any more, nor make room."""
        self._budget.end(self)

    def release(self) -> None:
        """Nobody holds it any more. May be called twice."""
        self.end()
        self._budget.give_back(self)
        self.size = 0


class BodyBudget:
    """Of one process. `holder` is whoever bodies are counted for: a key, an address."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.held = 0
        self._clock = clock
        self._by_holder: dict[str, int] = {}
        self._arriving: dict[str, dict[Intake, None]] = {}  # in the order in which they began
        self._waits_until: dict[str, float] = {}  # holders that found no room

    def begin(self, intake: Intake) -> None:
        self._arriving.setdefault(intake.holder, {})[intake] = None

    def end(self, intake: Intake) -> None:
        mine = self._arriving.get(intake.holder)
        if mine is not None:
            mine.pop(intake, None)
            if not mine:
                del self._arriving[intake.holder]

    def take(self, intake: Intake, size: int) -> None:
        """Raises BodiesInFlight."""
        holder = intake.holder
        with_it = self._by_holder.get(holder, 0) + size
        share = self.most // SHARE
        if with_it > share and self._others_wait(holder):
            raise BodiesInFlight(retry_after=1)
        if self.held + size > self.most and with_it <= share:
            self._make_room(size, share)
        if self.held + size > self.most:
            self._note_waiting(holder)
            raise BodiesInFlight(retry_after=1)
        self.held += size
        self._by_holder[holder] = with_it

    def give_back(self, intake: Intake) -> None:
        self.held -= intake.size
        left = self._by_holder.pop(intake.holder, 0) - intake.size
        if left > 0:
            self._by_holder[intake.holder] = left

    def _make_room(self, size: int, share: int) -> None:
        """Of the holder that has most: its newest bodies that are not whole, nobody works on them yet."""
        while self.held + size > self.most:
            largest = max(self._by_holder, key=self._by_holder.__getitem__)
            arriving = self._arriving.get(largest)
            if self._by_holder[largest] <= share or not arriving:
                return
            newest = next(reversed(arriving))
            newest.evict()
            newest.release()

    def _others_wait(self, holder: str) -> bool:
        if not self._waits_until:
            return False
        now = self._clock()
        return any(until > now for other, until in self._waits_until.items() if other != holder)

    def _note_waiting(self, holder: str) -> None:
        now = self._clock()
        if len(self._waits_until) >= MOST_WAITING:
            self._waits_until = {other: until for other, until in self._waits_until.items() if until > now}
        if len(self._waits_until) < MOST_WAITING:
            self._waits_until[holder] = now + WAIT_SECONDS
