from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routing.config.loader import ConfigInvalid, load_file


class Command(BaseCommand):
    help = (
        "Import a litellm_config.yaml, all of it or nothing. What the file doesn't mention stays as it is; "
        "loading the same file again changes nothing. docs/configuration-file.md describes the file."
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

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            report = load_file(options["file"], dry_run=options["dry_run"], prune=options["prune"])
        except ConfigInvalid as error:
            count = len(error.problems)
            problems = "\n".join(f"  {problem}" for problem in error.problems)
            raise CommandError(
                f"nothing was loaded: {count} problem{'s' if count > 1 else ''}\n{problems}"
            ) from None
        for line in report.lines():
            self.stdout.write(line)
