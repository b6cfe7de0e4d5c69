from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routing.config.loader import ConfigInvalid, LoadReport, load_file

NOTHING_LOADED, REFUSED = 1, 3


class Command(BaseCommand):
    help = (
        "Import a litellm_config.yaml: all of it that can be served. What can't take effect is reported, and "
        "a limit or the like that can't be taken becomes a stricter one. What the file doesn't mention stays "
        "as it is; loading the same file again changes nothing. Exit status: 0 loaded, 1 nothing loaded, 3 "
        "with --strict where there is a report. docs/configuration-file.md describes the file."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", help="the YAML file")
        parser.add_argument("--dry-run", action="store_true", help="print what would change, write nothing")
        parser.add_argument(
            "--prune",
            action="store_true",
            help="also delete the targets and routes that the file doesn't list, and the providers that are "
            "then neither listed nor used; API keys and teams are never deleted, and a route that is a "
            "key's only one is disabled instead",
        )
        parser.add_argument(
            "--name",
            default="",
            help="what the file is remembered as, for files whose path changes; without it, the path",
        )
        parser.add_argument(
            "--strict", action="store_true", help="write nothing where there is any report, and end with 3"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        words = {name: options[name] for name in ("name", "dry_run", "prune", "strict")}
        try:
            report = load_file(options["file"], **words)
        except ConfigInvalid as error:
            raise CommandError(
                "nothing was loaded\n" + "\n".join(f"  {line}" for line in error.problems)
            ) from None
        for line in report.lines():
            self.stdout.write(line)
        if status := _status(report):
            raise SystemExit(status)


def _status(report: LoadReport) -> int:
    if report.refused:
        return REFUSED
    return 0 if report.loaded else NOTHING_LOADED
