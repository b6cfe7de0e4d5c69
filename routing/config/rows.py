"""Writes one planned row: only where it really differs, and only where the model's own checks pass."""

import copy
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from routing import credentials, secret_headers
from routing.addresses import origin
from routing.config.memory import Memory
from routing.config.plan import Credential, PlannedRow
from routing.config.report import Change, Notes
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget


class Writer:
    """Collects what is to be written, what could not be written, and what a report says of it.

    Nothing is stored before apply(): all rows are filled and checked while others may write.
    """

    def __init__(self, notes: Notes, memory: Memory, *, complete: bool = False) -> None:
        self.notes = notes
        self.memory = memory
        self.complete = complete  # the file says all that there is, be it nothing
        self.changes: list[Change] = []
        self.unchanged = 0
        self._writes: list[Callable[[], object]] = []
        self._new: list[models.Model] = []  # that are to be made
        self._gone: set[str] = set()  # routes that are to be deleted
        self._deleted: list[models.Model] = []

    def write(
        self,
        row: models.Model,
        planned: PlannedRow,
        what: str,
        *,
        routes: Collection[ModelRoute] | None = None,
        names: Mapping[str, list[str]] | None = None,
        listed: bool = False,
    ) -> bool:
        """Whether the row is there when all is written. `listed`: the file names it, and remembers it.

        `routes` are those that an API key may use; None leaves them alone.

        `names` are those of the other routes, with their aliases: where the row is a route.
        """
        new = row._state.adding and not any(row is other for other in self._new)
        before = {} if new else _contents(row)
        values = _values(row)
        if listed:
            self.memory.open(row, planned, what, self.notes)
        _fill(row, planned, self.notes, new=new)
        if not self._repair(row, planned, names, values):
            return not new
        changed = [name for name, value in _contents(row).items() if new or before[name] != value]
        restricts = routes is not None and self._allowed(row) != {route.name for route in routes}
        if not changed and not restricts:
            self.unchanged += 1
        else:
            self._plan(row, changed, new=new)
            if restricts and isinstance(row, ApiKey):
                self._writes.append(partial(_restrict, row, list(routes or ()), row.restricted))
                changed.append("allowed_routes")
            shown = () if new else tuple(_as_planned(name) for name in changed)
            self.changes.append(Change("created" if new else "changed", what, shown))
        if listed:
            self.memory.remember(row, planned, new=new, changed=changed)
        return True

    def then(self, write: Callable[[], object]) -> None:
        """Stored with the rest, and no change of the configuration."""
        self._writes.append(write)

    def _plan(self, row: models.Model, changed: list[str], *, new: bool) -> None:
        if new:
            self._new.append(row)
        if changed:
            fields = None if new else [*changed, *_stamps(row)]
            self._writes.append(partial(_save, row, fields))

    def _allowed(self, row: models.Model) -> set[str]:
        if not isinstance(row, ApiKey) or row.pk is None:
            return set()
        return {route.name for route in row.allowed_routes.all()} - self._gone

    def _repair(
        self,
        row: models.Model,
        planned: PlannedRow,
        names: Mapping[str, list[str]] | None,
        values: dict[str, Any],
    ) -> bool:
        """Whether the row can be stored; fields that can't are as they were, and reported."""
        problems = list(_problems(row, names))
        for name, message in problems:
            setting = "this setting is left out" if name in values else "this is left out"
            place = planned.at(_as_planned(name))
            self.notes.say(place, f"{message.rstrip('.')}; {setting}", "write what is allowed")
            for field in {name} & values.keys():
                setattr(row, field, values[field])
        if not problems:
            return True
        left = list(_problems(row, names))
        for name, value in values.items() if left else ():
            setattr(row, name, value)
        for name, message in left:
            if (name, message) not in problems:
                self.notes.say(
                    planned.path, f"{message.rstrip('.')}; this is left out", "write what is allowed"
                )
        return not left

    def delete(self, row: models.Model, what: str) -> None:
        if isinstance(row, ModelRoute):
            self._gone.add(row.name)
        self._deleted.append(row)
        self._writes.append(row.delete)
        self.changes.append(Change("deleted", what))

    def deletes(self, row: models.Model) -> bool:
        return any(row is other for other in self._deleted)

    def disable(self, row: ModelRoute | RouteTarget, what: str) -> None:
        row.enabled = False
        self._writes.append(partial(_save, row, ["enabled", *_stamps(row)]))
        self.changes.append(Change("disabled", what))

    @property
    def writes(self) -> bool:
        return bool(self._writes) or self.memory.differs

    def apply(self) -> None:
        """In one transaction with the caller's checks."""
        for write in self._writes:
            write()
        self.memory.store()


def _save(row: models.Model, fields: list[str] | None) -> None:
    """By what the row says then: rows that it names were made meanwhile."""
    for name in fields or ():
        field = row._meta.get_field(name)
        if isinstance(field, models.ForeignKey) and (other := getattr(row, name)) is not None:
            setattr(row, name, other)
    later = _made_later(row) if fields is None else {}
    for name in later:
        setattr(row, name, None)
    row.save(update_fields=fields)
    for name, other in later.items():
        setattr(row, name, other)


def _made_later(row: models.Model) -> dict[str, models.Model]:
    """Rows that a new one names, and that are made after it: a later write sets them."""
    named = {
        field.name: field.get_cached_value(row, default=None)
        for field in row._meta.concrete_fields
        if isinstance(field, models.ForeignKey) and field.null
    }
    return {name: other for name, other in named.items() if other is not None and other.pk is None}


def _restrict(key: ApiKey, routes: list[ModelRoute], restricted: bool) -> None:
    key.allowed_routes.set(routes)
    # Setting them has made it true to the routes; the file may say that there are none left.
    ApiKey.objects.filter(pk=key.pk).update_quietly(restricted=restricted)


def _fill(row: models.Model, planned: PlannedRow, notes: Notes, *, new: bool) -> None:
    place = row.base_url if isinstance(row, Provider) else ""
    for name, value in (planned.initial if new else {}).items():
        setattr(row, name, value)
    for name, more in planned.additions.items():
        if name != "extra_headers":
            setattr(row, name, _merged(getattr(row, name), more))
    for name, value in planned.values.items():
        if name not in ("api_key", "extra_headers", "encrypted_headers"):
            setattr(row, name, value)
    for name, gone in planned.removals.items():
        setattr(row, name, [item for item in getattr(row, name) if item not in gone])
    if isinstance(row, Provider):
        moved = not new and _moved(place, row.base_url)
        _fill_credential(row, planned, notes, moved=moved)
        _fill_headers(row, planned, notes, moved=moved)


def _fill_credential(row: Provider, planned: PlannedRow, notes: Notes, *, moved: bool) -> None:
    wanted: Credential | None = planned.values.get("api_key")
    if wanted is not None:
        if not _is_same(row, wanted.plaintext):
            row.encrypted_api_key = wanted.token or credentials.encrypt(wanted.plaintext)
    elif moved and row.encrypted_api_key:
        # A new address must not be sent the old one's credential.
        row.encrypted_api_key = ""
        notes.say(
            planned.path,
            "the provider moved to another host, so its stored API key was removed",
            "write api_key, or enter it in the admin",
        )


def _is_same(row: Provider, plaintext: str) -> bool:
    try:
        return row.api_key == plaintext
    except credentials.CredentialUnreadable:
        return False


def _fill_headers(row: Provider, planned: PlannedRow, notes: Notes, *, moved: bool) -> None:
    before = _secret_headers(row)
    if moved and row.encrypted_headers:
        row.encrypted_headers = ""
        if "extra_headers" not in planned.values:
            notes.say(
                planned.path,
                "the provider moved to another host, so its stored secret headers were removed",
                "write extra_headers, or enter them in the admin",
            )
    wanted: Credential | None = planned.values.get("encrypted_headers")
    if "extra_headers" in planned.values or wanted is not None:
        said = planned.values.get("extra_headers", {})
        if not isinstance(said, dict):
            row.extra_headers = said  # its own check says what is wrong
            return
        unread = before or {} if "extra_headers" in planned.kept else {}
        row.headers = said | (json.loads(wanted.plaintext) if wanted is not None else unread)
        if wanted is not None and before != _secret_headers(row):
            row.encrypted_headers = wanted.token  # so that what is dumped is what was loaded
    elif more := planned.additions.get("extra_headers"):
        row.headers = _with_headers(row.extra_headers | (_secret_headers(row) or {}), more)
    elif secret_headers.split(row.extra_headers)[1]:
        row.headers = row.extra_headers  # a new row's initial ones


def _secret_headers(row: Provider) -> dict[str, str] | None:
    """None where they can't be read."""
    try:
        return row.secret_headers
    except credentials.CredentialUnreadable:
        return None


def _with_headers(there: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Header names have no case: one that is there in another spelling is replaced."""
    lowered = {name.lower() for name in more if name not in there}
    return {name: text for name, text in there.items() if name.lower() not in lowered} | more


def _moved(before: str, after: Any) -> bool:
    try:
        return origin(before) != origin(after)
    except (AttributeError, ValueError):
        return True  # one of them is no URL: its own check says so


def _merged(there: Any, more: Any) -> Any:
    if isinstance(more, list):
        return [*there, *(item for item in more if item not in there)]
    return dict(there) | more


def _values(row: models.Model) -> dict[str, Any]:
    """To go back to. Relations by the row that they name: it may not be stored yet."""
    fields = [field for field in row._meta.concrete_fields if field.editable and not field.primary_key]
    unsaved = _unsaved(row)
    found = {field.name if field.name in unsaved else field.attname: field for field in fields}
    return {
        name: copy.deepcopy(getattr(row, name)) if not field.is_relation else getattr(row, name)
        for name, field in found.items()
    }


def _contents(row: models.Model) -> dict[str, Any]:
    """What is compared. JSON as text: Python takes 1, 1.0 and true for the same."""
    written_here = ("encrypted_api_key", "encrypted_headers", "key_hash", "prefix", "restricted")
    found = {}
    for field in row._meta.concrete_fields:
        if not field.primary_key and (field.editable or field.name in written_here):
            value = getattr(row, field.attname)
            if isinstance(field, models.ForeignKey) and field.name in _unsaved(row):
                value = field.name, id(getattr(row, field.name))
            found[field.name] = (
                json.dumps(value, sort_keys=True) if isinstance(field, models.JSONField) else value
            )
    return found


def _stamps(row: models.Model) -> list[str]:
    return [field.name for field in row._meta.concrete_fields if getattr(field, "auto_now", False)]


def _as_planned(name: str) -> str:
    return {"encrypted_api_key": "api_key", "encrypted_headers": "extra_headers"}.get(name, name)


def _unsaved(row: models.Model) -> set[str]:
    """Relations to rows that are to be made in the same load: no database can be asked for them yet."""
    fields = (field for field in row._meta.concrete_fields if isinstance(field, models.ForeignKey))
    cached = {field.name: row._state.fields_cache.get(field.name) for field in fields}
    return {name for name, other in cached.items() if other is not None and other.pk is None}


def _problems(row: models.Model, names: Mapping[str, list[str]] | None) -> Iterator[tuple[str, str]]:
    """What the admin would say, each with its field, also where a constraint says it.

    That nothing is there twice is the plan's affair: it names each row once.
    """
    wrong = _unsaved(row)
    for check in (partial(row.clean_fields, exclude=wrong), partial(_clean, row, names)):
        try:
            check()
        except ValidationError as error:
            for name, messages in error.message_dict.items():
                wrong = wrong | {name}
                yield from ((name, message) for message in messages)
    for model, constraints in row.get_constraints():
        for constraint in constraints:
            try:
                if isinstance(constraint, models.CheckConstraint):
                    constraint.validate(model, row, exclude=wrong)
            except ValidationError as error:
                yield from ((_field_of(constraint), message) for message in error.messages)


def _clean(row: models.Model, names: Mapping[str, list[str]] | None) -> None:
    if isinstance(row, ModelRoute) and names is not None:
        row.clean_beside(names)
    else:
        row.clean()


def _field_of(constraint: models.BaseConstraint) -> str:
    """The field that the constraint is about; "" where it is about several."""
    condition: Any = constraint.condition if isinstance(constraint, models.CheckConstraint) else None
    while isinstance(condition, Q):
        condition = condition.children[0]
    return str(condition[0]).split("__")[0] if isinstance(condition, tuple) else ""
