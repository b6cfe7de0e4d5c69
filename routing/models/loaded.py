"""What configuration files have made: how a later load of the same file knows its own rows."""

from django.db import models


class LoadedKind(models.TextChoices):
    TARGET = "target", "target"
    PROVIDER = "provider", "provider"
    ROUTE = "route", "route"
    TEAM = "team", "team"
    KEY = "key", "API key"


class LoadedState(models.TextChoices):
    LISTED = "listed", "listed"
    CLOSED = "closed", "disabled, as a limit or the like could not be taken"
    GONE = "gone", "disabled, as its entry is gone"


class LoadedRow(models.Model):
    """One file's memory of one row: all targets that it lists, and other rows while they are closed.

    It is no part of the routing table, and serving needs none of it.
    """

    source = models.CharField(max_length=500)  # the file's name, as load_config --name says it
    kind = models.CharField(max_length=10, choices=LoadedKind.choices)
    row = models.BigIntegerField()  # its primary key, which no later row gets
    made = models.BooleanField()  # by a file; else it was there before
    state = models.CharField(max_length=10, choices=LoadedState.choices)
    written = models.JSONField(default=dict)  # digests of the row's fields, to tell what is edited since

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["source", "kind", "row"], name="loadedrow_unique"),
        ]
        indexes = [models.Index(fields=["kind", "row"], name="loadedrow_of_row")]

    def __str__(self) -> str:
        return f"{self.kind} {self.row} of {self.source}"
