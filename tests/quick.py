"""Gateways that many tests share look for changes and ship rows at once: else each test waits for both."""

from django.apps import AppConfig


class Quick(AppConfig):
    """In INSTALLED_APPS by tests/quick_settings.py. What is promised of these times: test_edits_live.py."""

    name = "tests.quick"
    label = "quick"

    def ready(self) -> None:
        from monitoring.management.commands import ship_journal
        from monitoring.shipping import shipper
        from proxy.attempts.opening import Patience
        from routing import live

        Patience.seconds = 1.0
        live.POLL_SECONDS = 0.05
        shipper.SHIP_SECONDS = 0.05
        ship_journal.NICENESS = 0  # beside five test workers it would get no processor time
