"""Who may call: teams and their gateway API keys."""

from typing import Any

from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from routing import gateway_keys
from routing.models.content import content_constraint, content_field
from routing.models.fields import slug_validator, validate_tags
from routing.models.issued import note_issued, note_retired
from routing.models.limits import Limited, limit_constraints, validate_time_zone
from routing.models.revocable import Revocable, RevocableQuerySet
from routing.models.route import ModelRoute


def tags_field(whose: str) -> models.JSONField:
    return models.JSONField(
        default=list,
        blank=True,
        validators=[validate_tags],
        help_text=f"Tags that each request of {whose} has; they open targets with the same tags.",
    )


class Team(Limited, Revocable):
    slug = models.CharField(max_length=64, unique=True, validators=[slug_validator])
    name = models.CharField(max_length=100)
    tags = tags_field("the team's keys")
    enabled = models.BooleanField(default=True, help_text="Off: all keys of the team are refused.")
    time_zone = models.CharField(
        max_length=64,
        default="UTC",
        validators=[validate_time_zone],
        help_text="Where the days, weeks and months of the team's budgets begin, for example Europe/Berlin.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RevocableQuerySet["Team"].as_manager()

    class Meta:
        ordering = ["slug"]
        constraints = [*limit_constraints("team")]

    def __str__(self) -> str:
        return self.slug


class ApiKeyQuerySet(RevocableQuerySet["ApiKey"]):
    """Bulk writes send no signals, so they note the hashes here, before the change is published."""

    def update(self, **values: Any) -> int:
        given = values.get("key_hash")
        if not isinstance(given, str):  # bulk_update() comes by with an expression
            return super().update(**values)
        with transaction.atomic():
            note_issued([given])
            note_retired(self._hashes() - {given})
            return super().update(**values)

    def bulk_create(self, objs: Any, *args: Any, **options: Any) -> list["ApiKey"]:
        rows = list(objs)
        note_issued(row.key_hash for row in rows)
        return super().bulk_create(rows, *args, **options)

    def bulk_update(self, objs: Any, fields: Any, *args: Any, **options: Any) -> int:
        rows = list(objs)
        if "key_hash" not in fields:
            return super().bulk_update(rows, fields, *args, **options)
        given = {row.key_hash for row in rows}
        with transaction.atomic():
            note_issued(given)
            note_retired(self.filter(pk__in=[row.pk for row in rows])._hashes() - given)
            return super().bulk_update(rows, fields, *args, **options)

    def _hashes(self) -> set[str]:
        return set(self.values_list("key_hash", flat=True))


class ApiKey(Limited, Revocable):
    name = models.CharField(max_length=100, unique=True, help_text="What or who uses the key.")
    prefix = models.CharField(max_length=16, editable=False, help_text="First characters of the key.")
    key_hash = models.CharField("SHA-256", max_length=64, unique=True, editable=False)
    team = models.ForeignKey(Team, null=True, blank=True, on_delete=models.PROTECT, related_name="keys")
    allowed_routes = models.ManyToManyField(
        ModelRoute,
        blank=True,
        related_name="keys",
        help_text="Routes that the key may use. None chosen: all routes.",
    )
    restricted = models.BooleanField(
        default=False,
        editable=False,
        help_text="Whether routes were chosen; stays so when the chosen routes are deleted.",
    )
    tags = tags_field("the key")
    content_log = content_field("route")
    expires_at = models.DateTimeField(
        null=True, blank=True, help_text="Refused from then on (UTC). Blank: never."
    )
    enabled = models.BooleanField(default=True, help_text="Off: revoked.")
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ["name"]
        constraints = [*limit_constraints("apikey"), content_constraint("apikey")]

    def __str__(self) -> str:
        return self.name

    def set_plaintext(self, plaintext: str) -> None:
        """Keep what identifies the key; the plaintext itself is stored nowhere."""
        self.key_hash = gateway_keys.digest(plaintext).hex()
        self.prefix = gateway_keys.shown_prefix(plaintext)

    def save(self, *args: Any, **options: Any) -> None:
        before = self._stored_hash
        with transaction.atomic():  # whoever sees the change sees all of it
            super().save(*args, **options)
            note_issued([self.key_hash])
            if before is not None and before != self._stored_hash:
                note_retired([before])

    def _note_stored(self) -> None:
        super()._note_stored()
        self._stored_hash = self.__dict__.get("key_hash")

    _stored_hash: str | None = None


@receiver(post_delete, sender=ApiKey)
def _deleted(instance: ApiKey, **_: Any) -> None:
    note_retired([instance.key_hash])
