"""Locks that one process of all has: in Redis where there is one, else a file under DATA_DIR.

The lock of a process that dies is free at once where it is a file, in Redis after LEASE_SECONDS.
"""

import fcntl
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Protocol

import redis
from django.conf import settings
from redis.exceptions import LockError

LEASE_SECONDS = 15


class ProcessLock(Protocol):
    def hold(self) -> bool:
        """Take it or keep it; False while another one has it. Raises RedisError."""

    def release(self) -> None:
        """Raises RedisError."""


class FileLock:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self._file = open(path, "w")  # noqa: SIM115 held until it is released or the process ends

    def hold(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        self._file.close()


class RedisLock:
    """Must be held again within LEASE_SECONDS, again and again."""

    def __init__(self, name: str) -> None:
        self._lock = _client().lock(f"switchstand:{name}", timeout=LEASE_SECONDS, thread_local=False)
        self._mine = False

    def hold(self) -> bool:
        if self._mine:
            try:
                return self._lock.reacquire()
            except LockError:  # we were too late: another one may have it
                self._mine = False
        self._mine = self._lock.acquire(blocking=False)
        return self._mine

    def release(self) -> None:
        if self._mine:
            self._mine = False
            with suppress(LockError):  # its lease was over
                self._lock.release()


@cache
def _client() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5)


def make_lock(name: str) -> ProcessLock:
    if settings.REDIS_URL:
        return RedisLock(name)
    return FileLock(Path(settings.DATA_DIR) / "locks" / f"{name}.lock")
