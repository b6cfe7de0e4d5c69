"""The main job: web, its shipper and the background process, in one command."""

import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser, OutputWrapper
from django.db import OperationalError

from gateway_project import before_start, greeting, processes
from gateway_project.first_run import FirstRun, set_up
from gateway_project.supervisor import Supervisor
from routing.config.loader import ConfigInvalid

# What a supervisor ends with that a signal ended: it did as it was told, so `make` has nothing to report.
TOLD_TO_STOP = {128 + number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


class Command(BaseCommand):
    help = "Migrate, set up what is missing, then run web and the background process until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--web-only", action="store_true", help="The web process alone, without any set-up."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            before_start.look(web_only=options["web_only"])
        except before_start.MayNotStart as reason:
            raise CommandError(str(reason)) from None
        if options["web_only"]:
            command = processes.web(settings.DRAIN_SECONDS)
            os.execv(command[0], command)
        code = self._serve()
        self.stdout.flush()
        # All parts have ended; to tidy up an interpreter costs another second on a busy machine.
        os._exit(code)

    def _serve(self) -> int:
        made = self._set_up()
        for line in made.config_lines:
            self.stdout.write(line)
        stop_seconds = processes.STOP_SECONDS + settings.DRAIN_NOTICE_SECONDS
        supervisor = Supervisor(stop_seconds, self._write_line, settings.PARTS_DIR)
        with Greeting(made, self.stdout, supervisor.note_served):
            code = supervisor.run(processes.together())
        return 0 if code in TOLD_TO_STOP else code

    def _set_up(self) -> FirstRun:
        try:
            call_command("migrate", verbosity=0, interactive=False)
            return set_up()
        except OperationalError as error:
            reason = str(error).strip().partition("\n")[0]
            raise CommandError(f"The database can't be used: {reason}") from error
        except ConfigInvalid as error:
            raise CommandError(str(error)) from error

    def _write_line(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


class Greeting:
    """Says the box when web answers. Where it never does, what was made is said all the same, at the end:
    the password exists by then, and nobody else knows it."""

    def __init__(self, made: FirstRun, output: OutputWrapper, served: Callable[[], None]) -> None:
        self._made, self._output, self._served = made, output, served
        self._said = threading.Lock()

    def __enter__(self) -> None:
        threading.Thread(target=self._say_when_ready, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._say(greeting.secret_lines, self._made, self._output)

    def _say_when_ready(self) -> None:
        while not answers():
            time.sleep(0.1)
        self._served()
        self._say(greeting.box, self._made, self._output)

    def _say(self, lines: Callable[..., list[str]], *arguments: Any) -> None:
        if self._said.acquire(blocking=False):
            self._output.write("\n".join(["", *lines(*arguments), ""]))
            self._output.flush()


def answers() -> bool:
    """Whether the web process answers HTTP, with whatever status."""
    try:
        urllib.request.urlopen(f"{greeting.origin()}/health/liveliness", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
