import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from routing.config import dumper


class Command(BaseCommand):
    help = (
        "Print the whole configuration as a litellm_config.yaml that load_config reads. "
        "Provider credentials stay encrypted, gateway keys are hashes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--output", metavar="FILE", help="write to this file, readable by its owner only")

    def handle(self, *args: Any, **options: Any) -> None:
        text = dumper.dump()
        if not options["output"]:
            self.stdout.write(text, ending="")
            return
        try:
            with open(options["output"], "w", encoding="utf-8", opener=_only_for_owner) as file:
                file.write(text)
        except OSError as error:
            raise CommandError(f"{options['output']}: can't be written: {error.strerror}") from None
        self.stderr.write(f"written to {Path(options['output'])}")


def _only_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
