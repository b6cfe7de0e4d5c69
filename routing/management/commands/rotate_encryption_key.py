from collections.abc import Iterator
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Model, QuerySet

from routing import credentials
from routing.publishing import RoutingQuerySet

CHUNK = 200


class Command(BaseCommand):
    help = (
        "Re-encrypt all that is stored encrypted (API keys of providers, addresses of alert channels, logged "
        "content) under the newest (first) of ENCRYPTION_KEYS, so that the older ones can be dropped. What "
        "is unreadable is named and left as it is; the rest is done anyway."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        newest = Fernet(settings.ENCRYPTION_KEYS[0].strip())
        done, skipped, unreadable = 0, 0, []
        for model, column in encrypted_columns():
            for row in _rows(model, column):
                if _decrypts(newest, getattr(row, column)):
                    skipped += 1
                    continue
                try:
                    done += _rotate(row, column)
                except credentials.CredentialUnreadable:
                    unreadable.append(str(row))
        self.stdout.write(f"{done} re-encrypted, {skipped} under the newest key already")
        if unreadable:
            raise CommandError(
                f"unreadable, because ENCRYPTION_KEYS lacks their key: {', '.join(unreadable)}. "
                "Add that key to ENCRYPTION_KEYS and run this again, or enter them anew."
            )


def encrypted_columns() -> Iterator[tuple[type[Model], str]]:
    """Of all apps: each column whose name says so."""
    for model in apps.get_models():
        for field in model._meta.concrete_fields:
            if field.name == "encrypted" or field.name.startswith("encrypted_"):
                yield model, field.name


def _rows(model: type[Model], column: str) -> Iterator[Model]:
    rows: QuerySet[Any] = model._default_manager.exclude(**{column: ""}).order_by("pk")
    return rows.iterator(chunk_size=CHUNK)


def _decrypts(cipher: Fernet, token: str) -> bool:
    try:
        cipher.decrypt(token.encode())
    except InvalidToken:
        return False
    return True


def _rotate(row: Any, column: str) -> int:
    """1, or 0 where an admin has just stored another value. The routing table stays as it is."""
    token = getattr(row, column)
    stored = type(row)._default_manager.filter(pk=row.pk, **{column: token})
    update = stored.update_quietly if isinstance(stored, RoutingQuerySet) else stored.update
    count: int = update(**{column: credentials.rotate(token)})
    return count
