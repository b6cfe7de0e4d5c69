from argparse import ArgumentParser
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from routing import gateway_keys, unpriced
from routing.config.keys import key_problem
from routing.models import ApiKey, ModelRoute, Team
from routing.models.limits import BudgetPeriod


class Command(BaseCommand):
    help = "Create a gateway API key and print it, once, alone on the last line."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="what or who uses the key")
        parser.add_argument(
            "--key", metavar="VALUE", help="keep a key that apps already hold, 20 or more characters"
        )
        parser.add_argument("--team", metavar="SLUG", help="the team that the key belongs to")
        parser.add_argument(
            "--routes", metavar="A,B", default="", help="the routes that the key may use; without: all"
        )
        parser.add_argument("--rpm", type=int, metavar="N", help="requests per minute")
        parser.add_argument("--tpm", type=int, metavar="N", help="tokens per minute")
        parser.add_argument("--parallel", type=int, metavar="N", help="requests open at the same time")
        parser.add_argument("--budget", metavar="USD", help="most that may be spent")
        parser.add_argument(
            "--budget-period",
            choices=BudgetPeriod.values,
            default=BudgetPeriod.TOTAL,
            help="when the budget starts again; total: never",
        )
        parser.add_argument("--expires", metavar="ISO", help="date and time, UTC unless it has an offset")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        plaintext = gateway_keys.generate() if options["key"] is None else _kept(options["key"])
        key = ApiKey(
            name=options["name"],
            team=_team(options["team"]),
            rpm=options["rpm"],
            tpm=options["tpm"],
            parallel=options["parallel"],
            budget_usd=_budget(options["budget"]),
            budget_period=options["budget_period"],
            expires_at=_moment(options["expires"]),
        )
        key.set_plaintext(plaintext)
        routes = _routes(options["routes"])
        _validate(key)
        key.save()
        key.allowed_routes.set(routes)
        for text in unpriced.told(key):
            self.stderr.write(text)
        self.stdout.write(f"API key {key.name}, shown only now:")
        self.stdout.write(plaintext)


def _kept(value: str) -> str:
    if wrong := key_problem(value):
        raise CommandError(f"--key: {wrong}")
    if value == settings.MASTER_KEY:
        raise CommandError("--key: this is the MASTER_KEY: allowed are keys of their own")
    if ApiKey.objects.filter(key_hash=gateway_keys.digest(value).hex()).exists():
        raise CommandError("--key: this key is already stored: each may be used once")
    return value


def _team(slug: str | None) -> Team | None:
    if slug is None:
        return None
    team = Team.objects.filter(slug=slug).first()
    if team is None:
        known = ", ".join(Team.objects.values_list("slug", flat=True)) or "none"
        raise CommandError(f"--team: unknown team {slug!r}; known are: {known}")
    return team


def _routes(names: str) -> list[ModelRoute]:
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    found = {route.name: route for route in ModelRoute.objects.filter(name__in=wanted)}
    if unknown := sorted(wanted - set(found)):
        known = ", ".join(ModelRoute.objects.values_list("name", flat=True)) or "none"
        raise CommandError(f"--routes: unknown route {', '.join(unknown)}; known are: {known}")
    return list(found.values())


def _budget(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        raise CommandError(f"--budget: {text!r} is not an amount of USD such as 25 or 0.50") from None


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--expires: {text!r} is not a date and time such as 2030-01-31T12:00:00Z"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= timezone.now():
        raise CommandError(f"--expires: {text} is in the past")
    return moment


def _validate(key: ApiKey) -> None:
    try:
        key.full_clean()
    except ValidationError as error:
        lines = [f"{name}: {message}" for name, texts in error.message_dict.items() for message in texts]
        raise CommandError("\n".join(lines).replace("__all__: ", "")) from None
