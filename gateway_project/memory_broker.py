"""The queue in the worker's own memory, such that a worker which is told to stop stops soon."""

from typing import Any

from kombu.transport import memory

LOOK_SECONDS = 0.2


class Transport(memory.Transport):
    polling_interval = LOOK_SECONDS

    def drain_events(self, connection: Any, timeout: float | None = None, **options: Any) -> None:
        # Celery waits 2 s per call, looks for its orders only between two calls, and makes one more
        # call after it found one: up to 4 s from SIGTERM to the end of an idle worker.
        super().drain_events(connection, timeout=min(timeout or LOOK_SECONDS, LOOK_SECONDS), **options)
