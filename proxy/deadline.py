"""A deadline for one task: asyncio.timeout costs a request several times as much."""

import asyncio
from types import TracebackType


class DeadlinePassed(Exception):
    pass


class Deadline:
    """`with Deadline(seconds):` around awaits. Raises DeadlinePassed where it ended them."""

    __slots__ = ("_passed", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._passed = False
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._timer = loop.call_later(max(self._seconds, 0.0), self._pass)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        self._timer.cancel()
        if not self._passed or self._task is None:
            return
        # Someone else's cancellation beside ours (a client that hung up) is theirs: it goes on.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DeadlinePassed from error

    def _pass(self) -> None:
        assert self._task is not None
        self._passed = True
        self._task.cancel()
