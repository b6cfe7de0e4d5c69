"""Who may try a password next: one at a time, in turns, and slower after failures. Nobody is locked out."""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from proxy.access.failed_auth import FailedAuth
from proxy.errors import RateLimited

MOST_SECONDS = 10.0  # in the line
MOST_WAITING = 500
MOST_OF_ADDRESS = 50
MOST_REMEMBERED = 10_000
FREE_OF_ADDRESS, FREE_OF_NAME_AND_ADDRESS, FREE_OF_NAME = 20, 10, 20
"""Failures in a minute, after which the next attempts of these come one by one."""
NAME_SECONDS = 0.5  # between two attempts at a name that many addresses try; more would lock it


@dataclass(eq=False, slots=True)
class Attempt:
    """A log-in that wants its password hashed. `browser` tells callers of one address apart, if they wish."""

    address: str
    browser: str
    name: str
    came: float = 0.0
    granted: bool = False
    turn: asyncio.Future[None] = field(init=False)

    def __post_init__(self) -> None:
        self.browser = f"{self.address} {_short(self.browser)}"
        self.name = f"name {_short(self.name)}"

    @property
    def name_and_address(self) -> str:
        return f"{self.name} {self.address}"

    @property
    def all(self) -> tuple[str, str, str, str]:
        return self.address, self.browser, self.name, self.name_and_address


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class LogInLine:
    """For one event loop. Turns go round addresses, then browsers: who was served longest ago is next."""

    def __init__(self, failed: FailedAuth, clock: Callable[[], float] = time.monotonic) -> None:
        self._failed = failed
        self._clock = clock
        self._waiting: list[Attempt] = []
        self._tried: OrderedDict[str, float] = OrderedDict()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def turn(self, attempt: Attempt) -> AsyncIterator[None]:
        """Raises RateLimited for who would wait longer than MOST_SECONDS."""
        self._join(attempt)
        try:
            async with asyncio.timeout(MOST_SECONDS):
                await attempt.turn
        except TimeoutError:
            self._leave(attempt)
            raise too_many() from None
        except BaseException:
            self._leave(attempt)
            raise
        try:
            yield
        finally:
            self._leave(attempt)

    def fail(self, attempt: Attempt) -> None:
        """Its password was wrong."""
        for who in (attempt.address, attempt.name, attempt.name_and_address):
            self._failed.add(who)

    def _join(self, attempt: Attempt) -> None:
        attempt.came = self._clock()
        attempt.turn = asyncio.get_running_loop().create_future()
        self._waiting.append(attempt)
        surplus = self._surplus(attempt)
        if surplus is not None:
            surplus.turn.set_exception(too_many())
        self._next()

    def _surplus(self, newest: Attempt) -> Attempt | None:
        """Who has to go where too many wait: the latest of the browser, or address, with the most of them."""
        addresses = Counter(one.address for one in self._waiting)
        crowd = newest.address
        if len(self._waiting) > MOST_WAITING:
            crowd = addresses.most_common(1)[0][0]
        elif addresses[crowd] <= MOST_OF_ADDRESS:
            return None
        of_crowd = [one for one in self._waiting if one.address == crowd]
        browsers = Counter(one.browser for one in of_crowd)
        return max(of_crowd, key=lambda one: (browsers[one.browser], self._last(one.browser), one.came))

    def _leave(self, attempt: Attempt) -> None:
        if attempt.granted:
            self._busy = False
        else:
            self._waiting.remove(attempt)
        self._next()

    def _next(self) -> None:
        """Lets the next one go, or waits until one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting = [one for one in self._waiting if not one.turn.done()]
        if self._busy or not waiting:
            return
        now = self._clock()
        due = {one: self._due(one) for one in waiting}
        ready = [one for one in waiting if due[one] <= now]
        if ready:
            self._grant(min(ready, key=self._place), now)
        else:
            wait = min(due.values()) - now
            self._timer = asyncio.get_running_loop().call_later(wait, self._next)

    def _grant(self, attempt: Attempt, now: float) -> None:
        self._waiting.remove(attempt)
        self._busy = attempt.granted = True
        for who in attempt.all:
            self._tried[who] = now
            self._tried.move_to_end(who)
        while len(self._tried) > MOST_REMEMBERED:
            self._tried.popitem(last=False)
        attempt.turn.set_result(None)

    def _place(self, attempt: Attempt) -> tuple[float, float, float]:
        return self._last(attempt.address), self._last(attempt.browser), attempt.came

    def _last(self, who: str) -> float:
        return self._tried.get(who, float("-inf"))

    def _due(self, attempt: Attempt) -> float:
        """When it may be tried at the earliest."""
        pace = 60.0 / self._failed.per_minute
        paced = (
            (attempt.address, FREE_OF_ADDRESS, pace),
            (attempt.name_and_address, FREE_OF_NAME_AND_ADDRESS, pace),
            (attempt.name, FREE_OF_NAME, NAME_SECONDS),
        )
        slowed = (self._last(who) + wait for who, free, wait in paced if self._failed.wait(who, free))
        return max(slowed, default=0.0)


def too_many() -> RateLimited:
    return RateLimited("Too many log-ins at once: try again in a few seconds.", retry_after=MOST_SECONDS / 2)
