"""Time that passes only where somebody waits for it: an hour's pauses take a test no time."""

import asyncio
import selectors
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


class _Selector(selectors.SelectSelector):
    """Where the loop would sleep until its next timer, its clock goes on to that timer at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all wait for each other, and no timer will wake one of them"
        self.now += max(timeout, 0.0)
        return super().select(0)


class FakeTime(asyncio.SelectorEventLoop):
    """An event loop for what waits for timers only, not for sockets; threads' work is done at once."""

    def __init__(self) -> None:
        self._timeless = _Selector()
        super().__init__(self._timeless)

    def time(self) -> float:
        return self._timeless.now

    def run_in_executor(
        self, executor: Any, func: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        done = self.create_future()
        try:
            done.set_result(func(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def run(self, main: Callable[["FakeTime"], Awaitable[Any]]) -> Any:
        """What `main(loop)` returns. The clocks that the code under test reads are the loop's meanwhile."""
        with self._clocks():
            try:
                return self.run_until_complete(main(self))
            finally:
                self.close()

    @contextmanager
    def _clocks(self) -> Iterator[None]:
        with (
            mock.patch.object(time, "perf_counter", self.time),
            mock.patch.object(time, "monotonic", self.time),
        ):
            yield
