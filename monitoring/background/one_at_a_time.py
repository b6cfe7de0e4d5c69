"""Tasks that never run twice at once, in however many threads and workers: who comes meanwhile goes away."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task
from redis import RedisError

from monitoring.background.locks import LEASE_SECONDS, ProcessLock, make_lock
from monitoring.background.turns import left_out_where_locked

logger = logging.getLogger(__name__)


class OneAtATime(Task):
    abstract = True
    ignore_result = True

    def __call__(self, *args: Any, **options: Any) -> Any:
        with turn(self.name) as mine:
            if mine:
                with left_out_where_locked(self.name):
                    return super().__call__(*args, **options)
                return None
            logger.debug("%s still runs: it is left out this time", self.name)
            return None


@contextmanager
def turn(name: str) -> Iterator[bool]:
    """Whether it is ours, until the end. Raises RedisError where Redis can't be asked."""
    lock = make_lock(f"task:{name}")
    if not lock.hold():
        lock.release()
        yield False
        return
    _held.add(lock)
    try:
        yield True
    finally:
        _held.remove(lock)


class _Held:
    """Holds the locks of running tasks again before their leases are over."""

    def __init__(self) -> None:
        self._locks: set[ProcessLock] = set()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lock: ProcessLock) -> None:
        with self._turn:
            self._locks.add(lock)
            if self._thread is None or not self._thread.is_alive():  # a fork has no threads
                self._thread = threading.Thread(target=self._run, name="task-locks", daemon=True)
                self._thread.start()

    def remove(self, lock: ProcessLock) -> None:
        with self._turn:
            self._locks.discard(lock)
            _tried(lock.release)

    def _run(self) -> None:
        pause = threading.Event()
        while not pause.wait(LEASE_SECONDS / 3):
            with self._turn:
                for lock in self._locks:
                    _tried(lock.hold)


def _tried(act: Any) -> None:
    try:
        act()
    except RedisError as error:
        # The task goes on: while Redis is away no worker gets another one.
        logger.warning("a running task's lock is not told to Redis: %s", type(error).__name__)


_held = _Held()
