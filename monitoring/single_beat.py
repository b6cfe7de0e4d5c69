"""Celery beat that runs once, however many are started: the others wait to take over.

The lock is in Redis where there is one, else a file under DATA_DIR. A beat that dies leaves the file's
lock at once, and that in Redis after LEASE_SECONDS.
"""

import fcntl
import logging
from pathlib import Path
from typing import Any, Protocol

import redis
from celery.beat import PersistentScheduler
from django.conf import settings
from redis.exceptions import LockError

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15
STANDBY_SECONDS = 1.0
NAME = "switchstand:beat"


class BeatLock(Protocol):
    def hold(self) -> bool:
        """Take it or keep it; False while another beat has it."""


class FileLock:
    def __init__(self, path: Path) -> None:
        self._file = open(path, "w")  # noqa: SIM115 held until the process ends

    def hold(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


class RedisLock:
    def __init__(self, url: str) -> None:
        client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        self._lock = client.lock(NAME, timeout=LEASE_SECONDS, thread_local=False)
        self._mine = False

    def hold(self) -> bool:
        """Raises RedisError."""
        if self._mine:
            try:
                return self._lock.reacquire()
            except LockError:  # we were too late: another one may have it
                self._mine = False
        self._mine = self._lock.acquire(blocking=False)
        return self._mine


class SingleScheduler(PersistentScheduler):
    """Opens its schedule's file only while it holds the lock: two would damage it."""

    _works = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock: BeatLock | None = None
        super().__init__(*args, **options)

    def setup_schedule(self) -> None:
        """Later, when the lock is ours."""

    def tick(self, *args: Any, **options: Any) -> float:
        if self._lock is None:
            self._lock = make_lock()
        try:
            held = self._lock.hold()
        except redis.RedisError as error:
            logger.warning("beat waits, Redis is away: %s", type(error).__name__)
            return STANDBY_SECONDS
        if not held:
            return self._stand_by()
        if not self._works:
            logger.info("this beat works")
            super().setup_schedule()
            self._works = True
        seconds: float = super().tick(*args, **options)
        return min(seconds, LEASE_SECONDS / 3)

    def _stand_by(self) -> float:
        if self._works:
            logger.warning("another beat works now; this one waits")
            self.close()
            self._store = self._heap = None
            self._works = False
        return STANDBY_SECONDS


def make_lock() -> BeatLock:
    if settings.REDIS_URL:
        return RedisLock(settings.REDIS_URL)
    return FileLock(Path(settings.DATA_DIR) / "beat.lock")
