"""What a file remembers of its rows from load to load."""

from collections.abc import Iterable
from typing import Any

from django.db import models

from routing.config.plan import PlannedRow
from routing.config.report import Notes
from routing.config.stamps import edited, stamp
from routing.models import ApiKey, LoadedRow, ModelRoute, Provider, RouteTarget, Team
from routing.models.loaded import LoadedKind, LoadedState

KINDS: dict[type[models.Model], str] = {
    RouteTarget: LoadedKind.TARGET,
    Provider: LoadedKind.PROVIDER,
    ModelRoute: LoadedKind.ROUTE,
    Team: LoadedKind.TEAM,
    ApiKey: LoadedKind.KEY,
}
_OFF = (LoadedState.CLOSED, LoadedState.GONE)


class Memory:
    """Of one file; nothing is stored before `store`."""

    def __init__(self, source: str) -> None:
        self.source = source[-500:]
        self.seen: set[int] = set()  # targets that the file lists
        self._marks: dict[tuple[str, int], LoadedRow] = {}
        self._others: dict[tuple[str, int], list[LoadedRow]] = {}
        self._changed: list[tuple[LoadedRow, models.Model]] = []
        self._dropped: list[LoadedRow] = []
        for mark in LoadedRow.objects.order_by("pk"):
            place = mark.kind, mark.row
            if mark.source == self.source:
                self._marks[place] = mark
            else:
                self._others.setdefault(place, []).append(mark)

    def of(self, row: models.Model) -> LoadedRow | None:
        return self._marks.get((KINDS.get(type(row), ""), row.pk))

    def targets(self) -> list[LoadedRow]:
        return [mark for (kind, _), mark in self._marks.items() if kind == LoadedKind.TARGET]

    def others_of(self, row: models.Model) -> list[str]:
        """The other files that list it."""
        found = self._others.get((KINDS.get(type(row), ""), row.pk), [])
        return [mark.source for mark in found if mark.state != LoadedState.GONE]

    def is_of_a_file(self, row: models.Model) -> bool:
        return self.of(row) is not None or (KINDS.get(type(row), ""), row.pk) in self._others

    def made(self, row: models.Model) -> bool:
        """Whether this file made it."""
        mark = self.of(row)
        return mark is not None and mark.made

    def may_move(self, row: RouteTarget) -> bool:
        """Whether its provider is the file's to choose, and no target of the file is there yet."""
        mark = self.of(row)
        if mark is None or not mark.made or row.pk in self.seen or self.others_of(row):
            return False
        return not {"route", "provider", "upstream_model"} & {*edited(row, mark.written)}

    def open(self, row: models.Model, planned: PlannedRow, what: str, notes: Notes) -> None:
        """A row that this file has closed opens again once it says nothing odd, unless an admin edited it."""
        mark = self.of(row)
        if mark is None or mark.state not in _OFF or planned.closed:
            return
        if "enabled" in planned.values or getattr(row, "enabled", True):
            return
        if not (fields := edited(row, mark.written)):
            planned.say("enabled", True, planned.path)
            return
        notes.say(
            planned.path,
            f"{what} was disabled by an earlier load of this file, and an admin edited it since "
            f"({', '.join(fields)}): it stays disabled",
            "enable it in the admin",
        )

    def remember(self, row: models.Model, planned: PlannedRow, *, new: bool, changed: Iterable[str]) -> None:
        kind = KINDS[type(row)]
        if kind == LoadedKind.TARGET and row.pk is not None:
            self.seen.add(row.pk)
        mark = self.of(row) or LoadedRow(source=self.source, kind=kind, made=new or self._is_of_files(row))
        state = _state(row, planned, mark, turned_off=new or "enabled" in changed)
        if state != LoadedState.LISTED or kind == LoadedKind.TARGET:
            self._keep(mark, row, state, _written(row, planned, mark, changed))
        elif mark.pk:
            self.drop(mark)

    def end(self, mark: LoadedRow, row: models.Model) -> None:
        """Its target is disabled, as its entry is gone."""
        self._keep(mark, row, LoadedState.GONE, mark.written | {"enabled": stamp(row)["enabled"]})

    def drop(self, mark: LoadedRow) -> None:
        self._dropped.append(mark)

    def _keep(self, mark: LoadedRow, row: models.Model, state: str, written: dict[str, str]) -> None:
        if not mark.pk or (mark.state, mark.written) != (state, written):
            mark.state, mark.written = state, written
            self._changed.append((mark, row))

    @property
    def differs(self) -> bool:
        return bool(self._changed or self._dropped)

    def store(self) -> None:
        """Once the rows are stored that it is about."""
        for mark, row in self._changed:
            mark.row = row.pk
        there = [mark for mark, _ in self._changed if mark.pk]
        LoadedRow.objects.bulk_create([mark for mark, _ in self._changed if not mark.pk])
        LoadedRow.objects.bulk_update(there, ["state", "written"], batch_size=200)
        LoadedRow.objects.filter(pk__in=[mark.pk for mark in self._dropped]).delete()

    def _is_of_files(self, row: models.Model) -> bool:
        return any(mark.made for mark in self._others.get((KINDS[type(row)], row.pk), []))


def _state(row: Any, planned: PlannedRow, mark: LoadedRow, *, turned_off: bool) -> str:
    if row.enabled:
        return LoadedState.LISTED
    if planned.closed and turned_off:
        return LoadedState.CLOSED
    return mark.state or LoadedState.LISTED


def _written(
    row: models.Model, planned: PlannedRow, mark: LoadedRow, changed: Iterable[str]
) -> dict[str, str]:
    """What the file says now; the rest is as it was when the file wrote it."""
    now = stamp(row)
    ours = {*changed, *planned.values} - ({"enabled"} - {*changed})
    return now | {name: digest for name, digest in mark.written.items() if name not in ours and name in now}
