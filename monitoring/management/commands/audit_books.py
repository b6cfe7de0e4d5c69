"""Whether the books agree: journal, rows, usage and the counters of budgets."""

import sys
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from monitoring.audit import budgets, journal, rows, usage


class Command(BaseCommand):
    help = "Compare journal, rows, usage and budgets; name what differs and exit with 1 then."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--days", type=int, help="Only rows and usage of the last DAYS days.")
        parser.add_argument(
            "--seal", action="store_true", help="Take all rows as they are now, and sum their usage up again."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["seal"]:
            self.stdout.write(f"{rows.seal_all()} rows sealed as they are now.")
        days = options["days"]
        since = timezone.now() - timedelta(days=days) if days is not None else None
        directory = Path(settings.JOURNAL_DIR)
        found = 0
        for difference in chain(
            journal.differences(directory),
            rows.differences(since),
            usage.differences(since),
            budgets.differences(directory),
        ):
            found += 1
            self.stdout.write(f"{difference.book}: {difference.what}")
        if found:
            self.stdout.write(f"{found} differences.")
            sys.exit(1)
        self.stdout.write("The books agree.")
