"""Rows whose keys are refused once they are switched off, and since when that is."""

from typing import Any, TypeVar

from django.db import models
from django.db.models import Case, F, Value, When
from django.utils import timezone

from routing.publishing import RoutingQuerySet


class Revocable(models.Model):
    enabled: Any
    revoked_at = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="When it was switched off. Blank: it is on, or nobody noted when.",
    )
    _was_enabled: bool | None = None  # in the database; None: not known

    class Meta:
        abstract = True

    def save(self, *args: Any, **options: Any) -> None:
        fields = options.get("update_fields")
        if fields is None or "enabled" in fields:
            self.note_switch()
            options["update_fields"] = fields if fields is None else {*fields, "revoked_at"}
        super().save(*args, **options)
        self._note_stored()

    @classmethod
    def from_db(cls, *args: Any, **options: Any) -> Any:
        row = super().from_db(*args, **options)
        row._note_stored()
        return row

    def refresh_from_db(self, *args: Any, **options: Any) -> None:
        super().refresh_from_db(*args, **options)
        self._note_stored()

    def note_switch(self) -> None:
        """Before it is stored."""
        if self.__dict__.get("enabled", True):
            self.revoked_at = None
        elif self._was_enabled or (self._state.adding and self.revoked_at is None):
            self.revoked_at = timezone.now()

    def _note_stored(self) -> None:
        self._was_enabled = self.__dict__.get("enabled")


Row = TypeVar("Row", bound=Revocable)


class RevocableQuerySet(RoutingQuerySet[Row]):
    """Bulk writes call no save()."""

    def update(self, **values: Any) -> int:
        if values.get("enabled") is True:
            values["revoked_at"] = None
        elif values.get("enabled") is False:
            values["revoked_at"] = Case(
                When(enabled=True, then=Value(timezone.now())), default=F("revoked_at")
            )
        return super().update(**values)

    def bulk_create(self, objs: Any, *args: Any, **options: Any) -> list[Row]:
        rows = list(objs)
        for row in rows:
            row.note_switch()
        return super().bulk_create(rows, *args, **options)

    def bulk_update(self, objs: Any, fields: Any, *args: Any, **options: Any) -> int:
        rows = list(objs)
        if "enabled" in fields:
            fields = [*fields, "revoked_at"]
            for row in rows:
                row.note_switch()
        return super().bulk_update(rows, fields, *args, **options)
