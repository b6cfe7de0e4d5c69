"""A plan -> the database, in one transaction: all of it, or nothing."""

from pathlib import Path

from django.db import transaction

from routing.config import document, fallback_rows, fallbacks, reader
from routing.config.plan import GatewaySecret, Plan, PlannedRow, TargetId
from routing.config.prune import prune_providers, prune_routes
from routing.config.report import ConfigInvalid, LoadReport, Notes
from routing.config.rows import Writer
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, Team

__all__ = ["ConfigInvalid", "LoadReport", "load_file"]


def load_file(path: str | Path, *, dry_run: bool = False, prune: bool = False) -> LoadReport:
    """Load the file. Raises ConfigInvalid, with all problems, and then has written nothing."""
    notes = Notes()
    plan = reader.read(document.load(path), notes)
    if prune and not plan.lists_models:
        notes.problem("model_list", "is needed with --prune, which deletes what it doesn't list")
    with transaction.atomic():
        writer = _Load(plan, notes).run(prune=prune and plan.lists_models)
        notes.raise_problems()
        if dry_run:
            transaction.set_rollback(True)
    return LoadReport(tuple(writer.changes), writer.unchanged, tuple(notes.warnings), dry_run)


class _Load:
    def __init__(self, plan: Plan, notes: Notes) -> None:
        self.plan = plan
        self.notes = notes
        self.writer = Writer(notes)
        self.teams = {row.slug: row for row in Team.objects.all()}
        self.providers = {row.slug: row for row in Provider.objects.all()}
        self.routes = {row.name: row for row in ModelRoute.objects.all()}

    def run(self, *, prune: bool) -> Writer:
        if prune:
            prune_routes(self.plan, self.routes, self.writer)
            self.plan.fallbacks |= fallbacks.missing(self.plan.fallbacks, self.plan.routes)
        self._gateway()
        for slug, planned in self.plan.teams.items():
            row = self.teams.setdefault(slug, Team(slug=slug))
            self.writer.write(row, planned, f"team {slug}")
        for slug, planned in self.plan.providers.items():
            provider = self.providers.setdefault(slug, Provider(slug=slug))
            self.writer.write(provider, planned, f"provider {slug}")
        self._write_routes()
        fallback_rows.write(self.plan.fallbacks, self.routes, self.writer)
        self._write_targets()
        for name, planned in self.plan.keys.items():
            self._write_key(name, planned)
        for secret in self.plan.secrets:
            self._write_secret(secret)
        if prune:
            prune_providers(self.plan, self.providers, self.writer)
        return self.writer

    def _gateway(self) -> None:
        if self.plan.gateway:
            self.writer.write(GatewaySettings.load(), self.plan.gateway, "gateway settings")

    def _write_routes(self) -> None:
        self._free_aliases()
        links = {
            name: (planned.at("over_limit_route"), planned.values.pop("over_limit_route"))
            for name, planned in self.plan.routes.items()
            if "over_limit_route" in planned.values
        }
        for name, planned in self.plan.routes.items():
            row = self.routes.setdefault(name, ModelRoute(name=name))
            self.writer.write(row, planned, f"route {name}")
        for name, (path, wanted) in links.items():
            self._link_over_limit_route(self.routes[name], path, wanted)

    def _link_over_limit_route(self, row: ModelRoute, path: str, wanted: str) -> None:
        """After all routes are written: the other one may stand below."""
        other = self.routes.get(wanted)
        if wanted and other is None:
            self.notes.problem(path, f"unknown route {wanted!r}")
        elif row.pk and (other is None or other.pk) and row.over_limit_route_id != (other and other.pk):
            link = PlannedRow(path, values={"over_limit_route": other})
            self.writer.write(row, link, f"route {row.name}")

    def _free_aliases(self) -> None:
        """An alias may move from one route to another: free it before the other is checked."""
        for name, planned in self.plan.routes.items():
            wanted, row = planned.values.get("aliases"), self.routes.get(name)
            if row is None or not isinstance(wanted, list):
                continue
            kept = [alias for alias in row.aliases if alias in wanted]
            if kept != row.aliases:
                ModelRoute.objects.filter(pk=row.pk).update_quietly(aliases=kept)

    def _write_targets(self) -> None:
        there = {
            TargetId(row.route.name, row.provider.slug, row.upstream_model): row
            for row in RouteTarget.objects.select_related("route", "provider")
        }
        for identity, planned in self.plan.targets.items():
            route, provider = self.routes[identity.route], self.providers[identity.provider]
            row = there.get(identity) or RouteTarget(
                route=route, provider=provider, upstream_model=identity.upstream_model
            )
            unsure = [name for name, other in (("route", route), ("provider", provider)) if other.pk is None]
            self.writer.write(row, planned, f"target {identity.route} → {identity.model}", unsure=unsure)

    def _write_key(self, name: str, planned: PlannedRow) -> None:
        """A key is what its hash says it is: it may have been renamed."""
        row = ApiKey.objects.filter(key_hash=planned.values.get("key_hash", "")).first()
        row = row or ApiKey.objects.filter(name=name).first() or ApiKey()
        planned.say("name", name, planned.path)
        routes = self._allowed_routes(planned)
        if routes is not None:
            # As in the admin: no route chosen is every route, unless the file says otherwise.
            planned.values["restricted"] = bool(routes) or planned.values.get("restricted", False)
        unsure = self._set_team(planned)
        self.writer.write(row, planned, f"API key {name}", routes=routes, unsure=unsure)

    def _set_team(self, planned: PlannedRow) -> list[str]:
        if "team" not in planned.values:
            return []
        slug = planned.values["team"]
        team = self.teams.get(slug)
        if slug and team is None:
            known = ", ".join(sorted(self.teams)) or "none"
            self.notes.problem(planned.at("team"), f"unknown team {slug!r}; known are: {known}")
        missing = bool(slug) and (team is None or team.pk is None)
        planned.values["team"] = None if missing else team
        return ["team"] if missing else []

    def _allowed_routes(self, planned: PlannedRow) -> list[ModelRoute] | None:
        names = planned.values.pop("allowed_routes", None)
        if names is None:
            return None
        for name in names:
            if name not in self.routes:
                self.notes.problem(planned.at("allowed_routes"), f"unknown route {name!r}")
        return [self.routes[name] for name in names if name in self.routes and self.routes[name].pk]

    def _write_secret(self, secret: GatewaySecret) -> None:
        """A key whose value is stored already stays as it is, under whatever name."""
        if ApiKey.objects.filter(key_hash=secret.key_hash).exists():
            self.writer.unchanged += 1
            return
        row = ApiKey.objects.filter(name=secret.name).first() or ApiKey(name=secret.name)
        planned = PlannedRow(secret.path, values={"key_hash": secret.key_hash, "prefix": secret.prefix})
        self.writer.write(row, planned, f"API key {secret.name}")
