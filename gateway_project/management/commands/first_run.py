"""Set-up before the first start; safe to repeat."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_project import greeting
from gateway_project.first_run import set_up
from routing.config.loader import ConfigInvalid


class Command(BaseCommand):
    help = "Create an admin user if there is none, load LITELLM_CONFIG if set, else make the demo provider."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = set_up()
        except ConfigInvalid as error:
            raise CommandError(str(error)) from error
        for line in [*made.config_lines, *greeting.secret_lines(made, self.stdout)]:
            self.stdout.write(line)
