"""Beat on a clock that a test sets, and a record of when each periodic task ran.

All in DATA_DIR: `clock` holds seconds that are added to the real ones; while `block-NAME` is there the task
NAME waits; `runs` has a line for each beginning and end.
"""

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from celery.signals import worker_init
from django.apps import AppConfig
from django.conf import settings
from kombu.transport.memory import Channel

PREFIX = "monitoring.tasks."


class ClockedBeat(AppConfig):
    """In INSTALLED_APPS by tests/clock_settings.py."""

    name = "tests.clock"
    label = "clocked_beat"

    def ready(self) -> None:
        from monitoring.background.single_beat import Clock

        Clock.now = staticmethod(now)
        worker_init.connect(_record_tasks, weak=False)


def now() -> float:
    with suppress(FileNotFoundError, ValueError):
        return time.monotonic() + float((_directory() / "clock").read_text())
    return time.monotonic()


def _directory() -> Path:
    return Path(os.environ["CLOCK_DIR"])


def _record_tasks(sender: Any, **_: Any) -> None:
    for name, task in sender.app.tasks.items():
        if name.startswith(PREFIX):
            task.run = _recorded(name.removeprefix(PREFIX), task.run)


def _recorded(name: str, run: Callable[[], None]) -> Callable[[], None]:
    def recorded() -> None:
        _write("begins", name)
        while (_directory() / f"block-{name}").exists():
            time.sleep(0.05)
        try:
            run()
        finally:
            _write("ends", name)

    return recorded


def _write(what: str, name: str) -> None:
    line = f"{what} {name} {now():.3f} {_waiting()} {os.getpid()}.{threading.get_ident()}\n"
    with open(_directory() / "runs", "a") as file:
        file.write(line)


def _waiting() -> int:
    """Messages in the queue."""
    if settings.REDIS_URL:
        return int(redis.Redis.from_url(settings.REDIS_URL).llen("celery"))
    return sum(queue.qsize() for queue in Channel.queues.values())
