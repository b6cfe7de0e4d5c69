from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from routing import credentials
from routing.models import Provider


class Command(BaseCommand):
    help = (
        "Re-encrypt each provider's API key under the newest (first) of ENCRYPTION_KEYS, so that the older "
        "ones can be dropped. Unreadable ones are named and left as they are; the others are done anyway."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        newest = Fernet(settings.ENCRYPTION_KEYS[0].strip())
        done, skipped, unreadable = 0, 0, []
        for provider in Provider.objects.exclude(encrypted_api_key="").order_by("slug"):
            if _decrypts(newest, provider.encrypted_api_key):
                skipped += 1
                continue
            try:
                done += _rotate(provider)
            except credentials.CredentialUnreadable:
                unreadable.append(provider.slug)
        self.stdout.write(f"{done} re-encrypted, {skipped} under the newest key already")
        if unreadable:
            raise CommandError(
                f"unreadable, because ENCRYPTION_KEYS lacks their key: {', '.join(unreadable)}. "
                "Add that key to ENCRYPTION_KEYS and run this again, or enter their API keys anew."
            )


def _decrypts(cipher: Fernet, token: str) -> bool:
    try:
        cipher.decrypt(token.encode())
    except InvalidToken:
        return False
    return True


def _rotate(provider: Provider) -> int:
    """1, or 0 where an admin has just stored another API key. The routing table stays as it is."""
    stored = Provider.objects.filter(pk=provider.pk, encrypted_api_key=provider.encrypted_api_key)
    return stored.update_quietly(encrypted_api_key=credentials.rotate(provider.encrypted_api_key))
