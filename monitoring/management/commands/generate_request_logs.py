"""Fill the request log with made-up calls, to measure with."""

import itertools
import time
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from monitoring.request_log.generating import calls
from monitoring.request_log.models import RequestLog
from monitoring.retention import partitions
from monitoring.shipping.storing import store
from monitoring.usage import rollups

BATCH = 5000


class Command(BaseCommand):
    help = "Write made-up calls as the shipper would, and sum them up. For a database of its own."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--rows", type=int, required=True)
        parser.add_argument("--days", type=int, default=30, help="that they are spread over, until now")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--add", action="store_true", help="also where the log has rows already")

    def handle(self, *args: Any, **options: Any) -> None:
        rows, days = options["rows"], options["days"]
        if rows < 1 or not 1 <= days <= 3650:
            raise CommandError("Allowed are --rows of 1 or more and --days from 1 to 3650.")
        if RequestLog.objects.exists() and not options["add"]:
            raise CommandError(
                "The log has rows. These calls never happened: use another database, or --add."
            )
        now = timezone.now()
        if partitions.in_use():
            partitions.make(now.date() - timedelta(days=number) for number in range(days + 1))
        started = time.perf_counter()
        made = calls(rows, days, now, options["seed"])
        while batch := list(itertools.islice(made, BATCH)):
            store(batch)
        stored = time.perf_counter()
        hours = rollups.roll_up()
        seconds = stored - started
        self.stdout.write(
            f"{rows:,} rows in {seconds:,.1f} s ({rows / seconds:,.0f} a second), "
            f"{hours:,} hours summed up in {time.perf_counter() - stored:,.1f} s"
        )
