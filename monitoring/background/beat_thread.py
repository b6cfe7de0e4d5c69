"""Beat as a thread of the worker. Celery's own -B makes it a process, whose in-memory queue nobody reads."""

import logging
import os
import signal
import threading
from typing import Any

from celery import Celery, bootsteps
from celery.beat import Service

logger = logging.getLogger(__name__)

SCHEDULER = "monitoring.background.single_beat:SchedulerInWorker"


def in_memory(app: Celery) -> bool:
    """Whether the queue is one that only this process can fill."""
    url: str = app.conf.broker_url or ""
    return url.startswith("memory:")


class BeatThread(bootsteps.StartStopStep):
    """In each worker whose queue is in memory, and where `always`: make serve's background process."""

    label = "Beat thread"
    always = False

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.enabled = self.always or in_memory(worker.app)

    def include_if(self, worker: Any) -> bool:
        return bool(self.enabled)

    def create(self, worker: Any) -> "_Beat":  # type: ignore[override] # what starts and stops with it
        return _Beat(worker.app)


class _Beat(threading.Thread):
    def __init__(self, app: Celery) -> None:
        super().__init__(name="beat", daemon=True)
        self._app = app
        self._service = Service(app, scheduler_cls=SCHEDULER)  # type: ignore[arg-type] # a name will do

    def run(self) -> None:
        self._app.set_current()
        try:
            self._service.start()
        except Exception:
            # Without it the worker would live on and do nothing; whoever started it starts a new one.
            logger.critical("beat ended", exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        self._service.stop()
