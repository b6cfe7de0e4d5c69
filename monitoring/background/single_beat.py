"""Celery beat that runs once, however many are started: the others wait to take over.

What it knows is in memory: a tick that was missed is not made up for, and after a start each task
runs within its period, the slow ones within FIRST_SECONDS.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import redis
from celery.beat import ScheduleEntry, Scheduler

from monitoring.background.beat_thread import in_memory
from monitoring.background.locks import LEASE_SECONDS, ProcessLock, make_lock

logger = logging.getLogger(__name__)

STANDBY_SECONDS = 1.0
LONGEST_SLEEP = min(1.0, LEASE_SECONDS / 3)
FIRST_SECONDS = 60.0
MOST_WAITING = 100  # ticks in the queue; a worker that is away finds no more than these


class Clock:
    """Monotonic seconds; a test may set another one."""

    now: Callable[[], float] = time.monotonic


class SingleScheduler(Scheduler):
    in_worker = False

    def __init__(self, *args: Any, **options: Any) -> None:
        self._lock: ProcessLock | None = None
        self._works: bool | None = None
        self._problem = ""
        self._due: dict[str, float] = {}
        super().__init__(*args, **options)
        self._away: tuple[type[BaseException], ...] = (redis.RedisError, *self.connection.connection_errors)

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due; seconds until the next look."""
        try:
            if not self._holds():
                return STANDBY_SECONDS
            now = Clock.now()
            for name, entry in self.schedule.items():
                if self._due.setdefault(name, now + min(_period(entry), FIRST_SECONDS)) <= now:
                    following = self._due[name] + _period(entry)  # in its rhythm, where that isn't over
                    self._due[name] = following if following > now else now + _period(entry)
                    self._send(entry)
        except self._away as error:
            self._note(f"beat waits, the broker is away: {type(error).__name__}")
            return STANDBY_SECONDS
        return min(max(min(self._due.values()) - Clock.now(), 0.01), LONGEST_SLEEP)

    def _send(self, entry: ScheduleEntry) -> None:
        queue = self.app.amqp.queues[self.app.conf.task_default_queue]
        declared: Any = queue(self.connection.default_channel).queue_declare()
        waiting = declared.message_count
        if waiting >= MOST_WAITING:
            return self._note(f"beat leaves out what is due: {waiting} ticks wait for a worker")
        self.apply_entry(entry, producer=self.producer)
        return self._note("")

    def _holds(self) -> bool:
        if in_memory(self.app) and not self.in_worker:
            self._turn(works=False)
            return False
        if self._lock is None:
            self._lock = make_lock("beat")
        held = self._lock.hold()
        self._turn(works=held)
        return held

    def _turn(self, *, works: bool) -> None:
        if works and not self._works:
            self._due = {}
            logger.info("this beat works")
        elif not works and self._works is not False:
            logger.warning("another beat works, or the worker's own: this one waits")
        self._works = works

    def _note(self, problem: str) -> None:
        if problem and problem != self._problem:
            logger.warning("%s", problem)
        self._problem = problem


class SchedulerInWorker(SingleScheduler):
    """As a thread of the worker that it sends to."""

    in_worker = True


def _period(entry: ScheduleEntry) -> float:
    schedule: Any = entry.schedule
    seconds: float = schedule.run_every.total_seconds()
    return seconds
