"""A plan -> the database, in one short transaction: all of it, or nothing."""

import os
from pathlib import Path

from django.conf import settings
from django.db import Error, transaction

from routing import gateway_keys
from routing.compiler import current_version
from routing.config import document, fallback_rows, fallbacks, guard_rows, reader, stored
from routing.config.gone import identity_of, settle_gone
from routing.config.memory import Memory
from routing.config.plan import GatewaySecret, Plan, PlannedRow, TargetId
from routing.config.prune import prune_providers, prune_routes
from routing.config.report import ConfigInvalid, LoadReport, Notes
from routing.config.rows import Writer
from routing.models import (
    ApiKey,
    GatewaySettings,
    ModelRoute,
    Provider,
    RouteTarget,
    RoutingVersion,
    Team,
)
from routing.publishing import publish_change, publishing_later

__all__ = ["ConfigInvalid", "LoadReport", "load_file", "load_text", "plan_text"]


TRIES = 5  # at a configuration that others edit meanwhile


def load_file(
    path: str | Path, *, name: str = "", dry_run: bool = False, prune: bool = False, strict: bool = False
) -> LoadReport:
    """`load_text` of what stands in the file, or `plan_text` of it; remembered by its name or its path."""
    text, source = document.read_file(path), name or _remembered_as(path)
    if dry_run:
        return plan_text(text, str(path), source=source, prune=prune, strict=strict)
    return load_text(text, str(path), source=source, prune=prune, strict=strict)


def _remembered_as(path: str | Path) -> str:
    """Links stay: what a mounted ConfigMap's link leads to has another name after each change."""
    return os.path.abspath(path)


def plan_text(
    text: bytes, name: str, *, source: str = "", prune: bool = False, strict: bool = False
) -> LoadReport:
    """What loading the text would do; nothing is written. Raises ConfigInvalid where it is no such text.

    `name` is what messages call it; `source`, or else the name, is what later loads know their own rows by.
    """
    version = current_version()
    notes, writer = _prepare(text, name, source or name, prune=prune)
    return _report(notes, writer, version, dry_run=True, refused=strict and bool(notes.reports))


def load_text(
    text: bytes,
    name: str,
    *,
    source: str = "",
    prune: bool = False,
    strict: bool = False,
    planned_at: int | None = None,
) -> LoadReport:
    """Load what can be taken; the rest is reported. Raises ConfigInvalid where the text is no such file.

    `strict`: nothing is written where there is any report. `planned_at` is the version that a plan was
    shown of: where there is another one, what that plan showed may not be what would be done.

    What is to be written is found out before the transaction begins that writes it: while one is open,
    nobody else writes to SQLite. Where the configuration was edited meanwhile, all of it is found out anew.
    """
    for _ in range(TRIES):
        version = current_version()
        if planned_at not in (None, version):
            raise ConfigInvalid(["the configuration was edited since this was planned: plan it again"])
        try:
            notes, writer = _prepare(text, name, source or name, prune=prune)
            refused = strict and bool(notes.reports)
            if writer.writes and not refused:
                _write(writer, version)
        except (ConfigInvalid, Edited, Error):
            if current_version() == version:
                raise
        else:
            return _report(notes, writer, version, dry_run=False, refused=refused)
    raise ConfigInvalid([f"the configuration was edited during each of {TRIES} tries: load the file again"])


class Edited(Exception):
    """By somebody else, since what is there was read."""


def _report(notes: Notes, writer: Writer, version: int, *, dry_run: bool, refused: bool) -> LoadReport:
    return LoadReport(
        tuple(writer.changes), writer.unchanged, notes.folded(), dry_run, refused, writer.complete, version
    )


def _prepare(text: bytes, name: str, source: str, *, prune: bool) -> tuple[Notes, Writer]:
    notes, memory = Notes(), Memory(source)
    plan = reader.read(document.decode(text, name, notes), notes, stored.read(memory))
    if prune and not plan.lists_models:
        notes.say("model_list", "has no entry, so that nothing is pruned", "list the models that are to stay")
    writer = _Load(plan, notes, memory).run(prune=prune and plan.lists_models)
    if not (writer.changes or writer.unchanged or writer.complete or notes.reports):
        notes.say(name, "holds no settings", "begin it with a mapping such as `model_list: [...]`")
    return notes, writer


@transaction.atomic
def _write(writer: Writer, version: int) -> None:
    with publishing_later():
        writer.apply()
    # Last, as an admin's edit does: two that wait for each other's rows would wait for ever.
    if RoutingVersion.objects.select_for_update().filter(pk=1).exists() and current_version() != version:
        raise Edited
    publish_change()


class _Load:
    def __init__(self, plan: Plan, notes: Notes, memory: Memory) -> None:
        self.plan = plan
        self.notes = notes
        self.memory = memory
        self.writer = Writer(notes, memory, complete=plan.complete)
        self.teams = {row.slug: row for row in Team.objects.all()}
        self.providers = {row.slug: row for row in Provider.objects.all()}
        self.routes = {row.name: row for row in ModelRoute.objects.all()}
        self.targets = list(RouteTarget.objects.select_related("route", "provider"))
        self.listed_routes = {*plan.routes}
        keys = list(ApiKey.objects.prefetch_related("allowed_routes"))
        self.keys_by_name = {row.name: row for row in keys}
        self.keys_by_hash = {row.key_hash: row for row in keys}

    def run(self, *, prune: bool) -> Writer:
        kept: set[str] = set()
        if prune:
            kept = prune_routes(self.plan, self.routes, self.targets, self.writer)
            self.plan.fallbacks |= fallbacks.missing(self.plan.fallbacks, self.plan.routes)
        self._gateway()
        for slug, planned in self.plan.teams.items():
            row = self.teams.setdefault(slug, Team(slug=slug))
            if not self.writer.write(row, planned, f"team {slug}", listed=True):
                del self.teams[slug]
        for slug, planned in self.plan.providers.items():
            provider = self.providers.setdefault(slug, Provider(slug=slug))
            if not self.writer.write(provider, planned, f"provider {slug}", listed=True):
                del self.providers[slug]
        self._write_routes()
        fallback_rows.write(self.plan.fallbacks, self.routes, self.writer)
        self._write_targets()
        settle_gone(self.plan, self.targets, self.memory, self.writer)
        guard_rows.write(self.plan.guards, self.writer)
        for name, planned in self.plan.keys.items():
            self._write_key(name, planned)
        for secret in self.plan.secrets:
            self._write_secret(secret)
        if prune:
            prune_providers(self.plan, self.providers, kept, self.writer)
        return self.writer

    def _gateway(self) -> None:
        if self.plan.gateway:
            self.writer.write(GatewaySettings.load(), self.plan.gateway, "gateway settings")

    def _write_routes(self) -> None:
        self._free_names()
        names = self._names()
        links = {
            name: (planned.at("over_limit_route"), planned.values.pop("over_limit_route"))
            for name, planned in self.plan.routes.items()
            if "over_limit_route" in planned.values
        }
        for name, planned in self.plan.routes.items():
            row = self.routes.setdefault(name, ModelRoute(name=name))
            names.pop(name, None)
            if self._write_route(row, name, planned, names):
                names[name] = row.aliases
            else:
                del self.routes[name]
        for name, (path, wanted) in links.items():
            if name in self.routes:
                self._link_over_limit_route(self.routes[name], path, wanted)

    def _write_route(
        self, row: ModelRoute, name: str, planned: PlannedRow, names: dict[str, list[str]]
    ) -> bool:
        listed = name in self.listed_routes
        return self.writer.write(row, planned, f"route {name}", names=names, listed=listed)

    def _free_names(self) -> None:
        """A name of the file's routes that is another route's alias is taken from that one."""
        for name, row in self.routes.items():
            if gone := {*row.aliases} & {*self.plan.routes} - {name}:
                planned = self.plan.routes.setdefault(name, PlannedRow(f"route {name}"))
                planned.removals["aliases"] = gone
                self.notes.say(
                    self.plan.routes[min(gone)].at("name"),
                    f"was an alias of the route {name}, and is a route of its own now",
                    "nothing, if that is meant",
                )

    def _names(self) -> dict[str, list[str]]:
        """Of the routes that are there, without the aliases that the file takes away: they may move."""
        found = {name: row.aliases for name, row in self.routes.items()}
        for name, planned in self.plan.routes.items():
            wanted = planned.values.get("aliases")
            if name in found and isinstance(wanted, list):
                found[name] = [alias for alias in found[name] if alias in wanted]
            if name in found and (gone := planned.removals.get("aliases")):
                found[name] = [alias for alias in found[name] if alias not in gone]
        return found

    def _link_over_limit_route(self, row: ModelRoute, path: str, wanted: str) -> None:
        """After all routes are written: the other one may stand below."""
        other = self.routes.get(wanted)
        if wanted and other is None:
            self.notes.say(path, f"unknown route {wanted!r}; this setting is left out", "correct the name")
        elif row.over_limit_route != other:
            link = PlannedRow(path, values={"over_limit_route": other})
            self.writer.write(row, link, f"route {row.name}", names={})

    def _write_targets(self) -> None:
        there = {identity_of(row): row for row in self.targets}
        for identity, planned in self.plan.targets.items():
            if identity.route not in self.routes or identity.provider not in self.providers:
                continue  # what is wrong with those has been reported
            row = there.get(identity) or self._moved(identity, planned) or self._new_target(identity)
            what = f"target {identity.route} → {identity.model}"
            if self.writer.write(row, planned, what, listed=True):
                self.plan.written.add(identity)

    def _new_target(self, identity: TargetId) -> RouteTarget:
        return RouteTarget(
            route=self.routes[identity.route],
            provider=self.providers[identity.provider],
            upstream_model=identity.upstream_model,
        )

    def _moved(self, identity: TargetId, planned: PlannedRow) -> RouteTarget | None:
        """The target that this file made of the same entry, whose provider is another one now."""
        for row in self.targets:
            same = (row.route.name, row.upstream_model) == (identity.route, identity.upstream_model)
            if same and identity_of(row) not in self.plan.targets and self.memory.may_move(row):
                planned.say("provider", self.providers[identity.provider], planned.path)
                return row
        return None

    def _write_key(self, name: str, planned: PlannedRow) -> None:
        """A key is what its hash says it is: it may have been renamed."""
        namesake = self.keys_by_name.get(name)
        row = self.keys_by_hash.get(planned.values.get("key_hash", "")) or namesake or ApiKey()
        if namesake is not None and namesake is not row:
            self.notes.say(
                planned.at("name"),
                f"another key is named {name!r}; this one is left out",
                "rename one of them",
            )
            return
        planned.say("name", name, planned.path)
        routes = self._allowed_routes(planned)
        self._set_team(planned)
        self._write_known(row, planned, name, routes, listed=True)

    def _write_known(
        self,
        row: ApiKey,
        planned: PlannedRow,
        name: str,
        routes: list[ModelRoute] | None = None,
        *,
        listed: bool = False,
    ) -> None:
        self.keys_by_name.pop(row.name, None)
        self.keys_by_hash.pop(row.key_hash, None)
        self.writer.write(row, planned, f"API key {name}", routes=routes, listed=listed)
        self.keys_by_name[row.name] = self.keys_by_hash[row.key_hash] = row

    def _set_team(self, planned: PlannedRow) -> None:
        if "team" in planned.values:
            slug = planned.values["team"]
            planned.values["team"] = team = self.teams.get(slug)
            if slug and team is None:
                known = ", ".join(sorted(self.teams)) or "none"
                planned.values["enabled"] = False  # its limits would not hold
                planned.closed = True
                self.notes.say(
                    planned.at("team"),
                    f"unknown team {slug!r}; the key is loaded disabled",
                    f"correct the name and load the file again; known are: {known}",
                )

    def _allowed_routes(self, planned: PlannedRow) -> list[ModelRoute] | None:
        names = planned.values.pop("allowed_routes", None)
        if names is None:
            return None
        for name in names:
            if name not in self.routes:
                self.notes.say(
                    planned.at("allowed_routes"),
                    f"unknown route {name!r}; it is left out of what the key may use",
                    "correct the name",
                )
        # As in the admin: no route chosen is every route, unless the file says otherwise.
        planned.values["restricted"] = bool(names) or planned.values.get("restricted", False)
        return [self.routes[name] for name in names if name in self.routes]

    def _write_secret(self, secret: GatewaySecret) -> None:
        """A key whose value is stored already stays as it is, under whatever name."""
        if secret.key_hash in self.keys_by_hash or _is_master_key(secret):
            self.writer.unchanged += 1
            return
        row = self.keys_by_name.get(secret.name) or ApiKey(name=secret.name)
        planned = PlannedRow(secret.path, values={"key_hash": secret.key_hash, "prefix": secret.prefix})
        self._write_known(row, planned, secret.name)


def _is_master_key(secret: GatewaySecret) -> bool:
    """Of the environment, which holds without a row."""
    return bool(settings.MASTER_KEY) and secret.key_hash == gateway_keys.digest(settings.MASTER_KEY).hex()
