"""The main job: web, its shipper and the background process, in one command."""

import errno
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway_project import processes
from gateway_project.first_run import DEMO_MODEL, FirstRun, set_up
from gateway_project.supervisor import Supervisor
from routing.config.loader import ConfigInvalid

CURL = """curl http://{host}:{port}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


class Command(BaseCommand):
    help = "Migrate, set up what is missing, then run web and the background process until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--web-only", action="store_true", help="The web process alone, without any set-up."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["web_only"]:
            command = processes.web(settings.DRAIN_SECONDS)
            os.execv(command[0], command)
        try:
            code = self._serve()
            self.stdout.flush()
            # All parts have ended; to tidy up an interpreter costs another second on a busy machine.
            os._exit(code)
        except KeyboardInterrupt:  # during the set-up, which then changed nothing
            sys.exit(128 + signal.SIGINT)

    def _serve(self) -> int:
        self._check_port()
        call_command("migrate", verbosity=0, interactive=False)
        try:
            made = set_up()
        except ConfigInvalid as error:
            raise CommandError(str(error)) from error
        self._say([*made.config_lines, *admin_lines(made)])
        stop_seconds = processes.STOP_SECONDS + settings.DRAIN_NOTICE_SECONDS
        supervisor = Supervisor(stop_seconds, self._write_line, settings.PARTS_DIR)
        waiting = threading.Thread(target=self._say_when_ready, args=(supervisor, try_lines(made)))
        waiting.daemon = True
        waiting.start()
        return supervisor.run(processes.together())

    def _check_port(self) -> None:
        with socket.socket(socket.AF_INET6 if ":" in settings.HOST else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.HOST, settings.PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise CommandError(
                        f"HOST={settings.HOST} PORT={settings.PORT}: {error.strerror}."
                    ) from error
                raise CommandError(
                    f"Port {settings.PORT} is taken. Another one: make serve PORT={settings.PORT + 10}"
                ) from error

    def _say_when_ready(self, supervisor: Supervisor, lines: list[str]) -> None:
        while not answers():
            time.sleep(0.1)
        supervisor.note_served()
        self._say(lines)

    def _write_line(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def _say(self, lines: list[str]) -> None:
        self.stdout.write("\n".join(["", *lines, ""]))
        self.stdout.flush()


def answers() -> bool:
    """Whether the web process answers HTTP, with whatever status."""
    try:
        urllib.request.urlopen(f"http://{shown_host()}:{settings.PORT}/health/liveliness", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def shown_host() -> str:
    host = settings.HOST
    if host in ("127.0.0.1", "0.0.0.0", "::"):  # noqa: S104 compares only
        return "localhost"
    return f"[{host}]" if ":" in host else host


def admin_lines(made: FirstRun) -> list[str]:
    lines = [f"Admin:  http://{shown_host()}:{settings.PORT}/admin/"]
    if made.admin_password:
        lines.append(f"        user admin, password {made.admin_password}   (shown once)")
    else:
        lines.append(f"        forgot the password? {manage()} changepassword admin")
    if made.demo_key:
        return [*lines, f"Key:    {made.demo_key}   (shown once)"]
    return [*lines, f"Keys:   {manage()} create_key NAME prints a new one"]


def manage() -> str:
    """How this very Python is called from here, as in .venv/bin/python manage.py."""
    python = os.path.relpath(sys.executable)
    return f"{sys.executable if python.startswith('..') else python} manage.py"


def try_lines(made: FirstRun) -> list[str]:
    ready = f"Ready: http://{shown_host()}:{settings.PORT}"
    if not made.demo_key:
        return [ready]
    curl = CURL.format(host=shown_host(), port=settings.PORT, key=made.demo_key, model=DEMO_MODEL)
    return [f'{ready}   Try it (add "stream": true to stream):', "", curl]
