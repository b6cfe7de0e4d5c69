"""Set-up before the first start; safe to repeat."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from gateway_project.first_run import set_up
from routing.config.loader import ConfigInvalid


class Command(BaseCommand):
    help = "Create an admin user if there is none, load LITELLM_CONFIG if set, else make the demo provider."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            made = set_up()
        except ConfigInvalid as error:
            raise CommandError(str(error)) from error
        for line in made.config_lines:
            self.stdout.write(line)
        if made.admin_password:
            self.stdout.write(f"Admin user: admin, password: {made.admin_password}")
        if made.demo_key:
            self.stdout.write(f"Demo key: {made.demo_key}")
