"""The process that moves the journal to the database; the web server starts and ends it."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from monitoring.alerts.running import run as run_alerts
from monitoring.content.shipping import ContentShipper
from monitoring.shipping.shipper import Shipper

NICENESS = 19  # rows may wait where requests want the core


class Command(BaseCommand):
    help = "Move the journal's records to the database until standard input ends."

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told to all processes alike, as systemd does
        os.nice(NICENESS)
        stop = threading.Event()
        shipper = Shipper(Path(settings.JOURNAL_DIR), ContentShipper(Path(settings.CONTENT_DIR)))
        shipping = threading.Thread(target=shipper.run, args=(stop,))
        shipping.start()
        # A daemon: a rule that asks the database for long must not keep the process.
        threading.Thread(target=run_alerts, args=(stop,), name="alerts", daemon=True).start()
        # The pipe also ends when the web server is killed, and not before its last record is written.
        sys.stdin.buffer.read()
        stop.set()
        shipping.join()
