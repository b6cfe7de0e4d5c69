"""A deadline for one task: asyncio.timeout costs a request several times as much."""

import asyncio
from types import TracebackType

TICK = 0.2  # seconds between two looks at the long deadlines
CLOCK_STEP = 0.001  # seconds; a timer may come that much early
LONG = 10.0  # seconds; from here on a deadline may pass up to a tick late


class DeadlinePassed(Exception):
    pass


class Deadline:
    """`with Deadline(seconds):` around awaits. Raises DeadlinePassed where it ended them.

    Exact below LONG seconds; longer ones share one timer, since nearly all of them never pass.
    """

    __slots__ = ("_clock", "_loop", "_passed", "_seconds", "_task", "_timer", "due")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._passed = False
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clock: _Clock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.due = 0.0  # by the clock of the event loop

    def __enter__(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self.due = loop.time() + self._seconds
        if self._seconds >= LONG:
            self._clock = clock = _clock if _clock is not None and _clock.loop is loop else _new_clock(loop)
            clock.open.add(self)
            if not clock.runs:
                clock.start()
        else:
            self._timer = loop.call_later(max(self._seconds, 0.0), self._look)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        elif self._clock is not None:
            self._clock.open.discard(self)
        if not self._passed or self._task is None:
            return
        # Someone else's cancellation beside ours (a client that hung up) is theirs: it goes on.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DeadlinePassed from error

    def renew(self, seconds: float) -> None:
        """From now on it is so many seconds."""
        assert self._loop is not None
        self.due = self._loop.time() + seconds

    def over(self) -> None:
        assert self._task is not None
        self._passed = True
        self._task.cancel()

    def _look(self) -> None:
        """What a short one's timer calls."""
        assert self._loop is not None
        left = self.due - self._loop.time()
        if left > CLOCK_STEP:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self.over()


class _Clock:
    """The long deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.open: set[Deadline] = set()
        self.runs = False

    def start(self) -> None:
        self.runs = True
        self.loop.call_later(TICK, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for deadline in [deadline for deadline in self.open if deadline.due <= now]:
            self.open.discard(deadline)
            deadline.over()
        self.runs = False
        if self.open:
            self.start()


_clock: _Clock | None = None


def _new_clock(loop: asyncio.AbstractEventLoop) -> _Clock:
    global _clock
    _clock = _Clock(loop)  # one that is left goes on until its last deadline
    return _clock
