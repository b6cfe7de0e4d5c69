"""Signs of life of what works in the background, kept in the database."""

import logging
import socket
import threading
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import Error, close_old_connections
from django.utils import timezone

from monitoring.background.models import Heartbeat

logger = logging.getLogger(__name__)

TICKS, WORKER, SHIPPER = "ticks", "worker", "shipper"
STALLED_SECONDS: int = settings.STALLED_SECONDS
BEAT_SECONDS = STALLED_SECONDS / 6
GAP = timedelta(seconds=STALLED_SECONDS / 2 + settings.ALERT_TICK_SECONDS)
FORGOTTEN = timedelta(days=1)  # what has been away for so long was taken down

_MEANING = {
    TICKS: "Celery beat: no periodic task has run",
    WORKER: "the Celery worker shows no sign of life",
    SHIPPER: "the journal's shipper shows no sign of life",
}


def beat(component: str, now: datetime, details: dict[str, Any] | None = None) -> None:
    """At most one write per BEAT_SECONDS and instance, however often it is called."""
    instance = socket.gethostname()[:100]
    rows = Heartbeat.objects.filter(component=component, instance=instance)
    if rows.filter(at__gt=now - timedelta(seconds=BEAT_SECONDS)).exists():
        return
    Heartbeat.objects.update_or_create(
        component=component, instance=instance, defaults={"at": now, "details": details or {}}
    )


class Watch:
    """Since when this process sees signs of life without a gap: what was off with it could give none."""

    def __init__(self) -> None:
        self.since: datetime | None = None  # None: it does not watch
        self._looked: datetime | None = None

    def look(self, now: datetime) -> None:
        """Call it again and again. A gap is a start, a machine that slept, a database that was away."""
        if self._looked is None or now - self._looked > GAP:
            self.since = now
        self._looked = now


watch = Watch()


def stalled(now: datetime) -> dict[str, str]:
    """Those of silent() that had the time to give a sign since this process watches."""
    if watch.since is not None and now - watch.since <= timedelta(seconds=STALLED_SECONDS):
        return {}
    return silent(now)


def silent(now: datetime) -> dict[str, str]:
    """component -> a sentence, of those that were alive within a day and aren't now.

    A component is alive as long as one of its instances is.
    """
    newest: dict[str, datetime] = {}
    for row in Heartbeat.objects.filter(at__gt=now - FORGOTTEN).order_by("at"):
        newest[row.component] = row.at
    ages = {component: (now - at).total_seconds() for component, at in newest.items()}
    return {
        component: f"{_MEANING[component]} for {age:.0f} s"
        for component, age in sorted(ages.items())
        if age > STALLED_SECONDS
    }


def beat_for_ever(component: str) -> None:
    """In a daemon thread of this process."""
    threading.Thread(target=_beat_for_ever, args=(component,), name="heartbeat", daemon=True).start()


def _beat_for_ever(component: str) -> None:
    pause = threading.Event()
    while True:
        close_old_connections()
        try:
            beat(component, timezone.now())
        except Error as error:  # the database is away; that others see no beat is what they must see
            logger.warning("no heartbeat of %s written: %s", component, error)
        pause.wait(BEAT_SECONDS * 1.05)
