"""The main job: web, Celery worker and beat, in one command."""

import os
import sys
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser

from gateway_project import processes
from gateway_project.first_run import DEMO_MODEL, FirstRun, demo_port, set_up
from gateway_project.supervisor import Supervisor
from routing.config.loader import ConfigInvalid

CURL = """curl http://{host}:{port}/v1/chat/completions \\
  -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'"""


class Command(BaseCommand):
    help = "Migrate, set up what is missing, then run web, worker and beat until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--web-only", action="store_true", help="The web process alone, without any set-up."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["web_only"]:
            command = processes.web(settings.DRAIN_SECONDS)
            os.execv(command[0], command)
        call_command("migrate", verbosity=0, interactive=False)
        try:
            made = set_up()
        except ConfigInvalid as error:
            raise CommandError(str(error)) from error
        self._print(made)
        supervisor = Supervisor(processes.STOP_SECONDS)
        sys.exit(supervisor.run(processes.together(demo_port())))

    def _print(self, made: FirstRun) -> None:
        host = "localhost" if settings.HOST in ("127.0.0.1", "0.0.0.0") else settings.HOST  # noqa: S104
        lines = [*made.config_lines, "", f"Admin:  http://{host}:{settings.PORT}/admin/"]
        if made.admin_password:
            lines.append(f"        user admin, password {made.admin_password}   (shown once)")
        else:
            lines.append("        forgot the password? manage.py changepassword admin")
        if made.demo_key:
            curl = CURL.format(host=host, port=settings.PORT, key=made.demo_key, model=DEMO_MODEL)
            lines += [
                f"Key:    {made.demo_key}   (shown once)",
                "",
                'Try it (add "stream": true to stream):',
                "",
                curl,
            ]
        else:
            lines.append("Keys:   manage.py create_key NAME prints a new one")
        self.stdout.write("\n".join([*lines, ""]))
        self.stdout.flush()
