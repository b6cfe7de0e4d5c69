"""Looks and tells, again and again; whoever runs it, each rule is looked at by one process at a time."""

import logging
import threading

from django.conf import settings
from django.db import Error, close_old_connections, connection
from django.utils import timezone

from monitoring.alerts.delivering import deliver
from monitoring.alerts.raising import evaluate
from monitoring.background.heartbeats import watch

logger = logging.getLogger(__name__)


def tick() -> None:
    now = timezone.now()
    watch.look(now)
    evaluate(now)
    deliver(timezone.now())


def run(stop: threading.Event) -> None:
    """Until told to stop. Beside the shipper: what watches Celery must not be Celery."""
    while not stop.wait(settings.ALERT_TICK_SECONDS):
        close_old_connections()
        try:
            tick()
        except Error as error:
            connection.close()
            logger.warning("alerts not looked at, will try again: %s", type(error).__name__)
    connection.close()
