"""Every key that there is or was, by its SHA-256: none of them may ever be sent to a provider."""

from collections.abc import Iterable

from django.db import models
from django.utils import timezone

AT_ONCE = 500  # hashes in one statement


class IssuedKey(models.Model):
    key_hash = models.CharField(max_length=64, primary_key=True, editable=False)
    retired_at = models.DateTimeField(
        null=True, editable=False, help_text="When the key was last replaced or deleted."
    )

    def __str__(self) -> str:
        return self.key_hash


def note_issued(hashes: Iterable[str]) -> None:
    IssuedKey.objects.bulk_create([IssuedKey(key_hash=one) for one in hashes], ignore_conflicts=True)


def note_retired(hashes: Iterable[str]) -> None:
    found, now = list(hashes), timezone.now()
    for start in range(0, len(found), AT_ONCE):
        rows = IssuedKey.objects.filter(key_hash__in=found[start : start + AT_ONCE])
        rows.update(retired_at=now)
