"""The sections of a file, put together into one plan."""

from typing import Any

from routing.config import fallbacks, fields
from routing.config.model_list import ModelList
from routing.config.own_section import OwnSection
from routing.config.plan import Credential, GatewaySecret, Plan, PlannedRow, Untaken
from routing.config.provider_rows import ProviderRows
from routing.config.report import Notes
from routing.config.route_rows import RouteRows
from routing.config.settings_sections import Settings
from routing.config.settle import settle
from routing.config.slugs import Stored
from routing.config.timeouts import settle_deadlines, settle_timeouts
from routing.config.weights import settle_weights
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, Team


def assemble(listed: ModelList, settings: Settings, own: OwnSection, stored: Stored, notes: Notes) -> Plan:
    providers, routes = ProviderRows(listed.entries, own, stored, notes), RouteRows(notes)
    not_taken = list(listed.not_taken)
    for entry in listed.entries:
        if (slug := providers.add(entry)) is not None:
            routes.add(entry, slug, zai=providers.is_zai(slug))
        else:
            not_taken.append(Untaken(entry.route, f"{entry.prefix}/{entry.upstream_model}"))
    routes.link_aliases(settings.aliases)
    providers.settle(settings)
    routes.fill(settings.every_route, settings.every_target)
    plan = Plan(
        gateway=settings.gateway,
        providers=providers.rows,
        routes=routes.rows,
        targets=routes.targets,
        secrets=_different_secrets(settings.secrets, notes),
        not_taken=not_taken,
        guards=settings.guards,
    )
    settle_weights(plan.targets, notes)
    timed = settle_timeouts(plan.routes, notes)
    _overrule(plan, own, notes)
    plan.fallbacks = fallbacks.settle(settings.fallbacks, plan.routes, notes)
    _fit(plan, notes)
    settle_deadlines(plan.routes, timed, plan.targets, plan.providers, plan.fallbacks)
    if own.complete:
        plan.complete = True
        _complete(plan)
    return plan


def _fit(plan: Plan, notes: Notes) -> None:
    if plan.gateway:
        settle(plan.gateway, GatewaySettings, "the gateway", notes)
    kinds: tuple[tuple[dict[Any, PlannedRow], Any, str], ...] = (
        (plan.teams, Team, "the team"),
        (plan.providers, Provider, "the provider"),
        (plan.routes, ModelRoute, "the route"),
        (plan.targets, RouteTarget, "the target"),
        (plan.keys, ApiKey, "the key"),
    )
    for rows, model, what in kinds:
        for row in rows.values():
            settle(row, model, what, notes)


def _different_secrets(secrets: list[GatewaySecret], notes: Notes) -> list[GatewaySecret]:
    """One key per name and per value; the first stays."""
    kept: list[GatewaySecret] = []
    for secret in secrets:
        twin = next((other for other in kept if other.key_hash == secret.key_hash), None)
        namesake = next((other for other in kept if other.name == secret.name), None)
        if twin is None and namesake is None:
            kept.append(secret)
        elif twin is None and namesake is not None:
            notes.say(secret.path, f"no effect: {namesake.path} says it already", "keep one of the two")
        elif twin is not None and twin.name != secret.name:
            notes.say(secret.path, f"no effect: it is the same key as {twin.path}", "keep one of the two")
    return kept


def _overrule(plan: Plan, own: OwnSection, notes: Notes) -> None:
    if own.gateway:
        plan.gateway = plan.gateway or PlannedRow(own.gateway.path)
        plan.gateway.overrule(own.gateway)
    plan.teams, plan.keys = own.teams, own.keys
    for rows, planned in ((own.providers, plan.providers), (own.routes, plan.routes)):
        for name, row in rows.items():
            planned.setdefault(name, PlannedRow(row.path)).overrule(row)
    for route, disabled in own.disabled_targets.items():
        _disable(plan, route, set(disabled), f"{own.routes[route].path}.disabled_targets", notes)


def _disable(plan: Plan, route: str, disabled: set[str], path: str, notes: Notes) -> None:
    targets = {identity.model: row for identity, row in plan.targets.items() if identity.route == route}
    for model, row in targets.items():
        row.say("enabled", model not in disabled and not row.closed, path)
    for model in sorted(disabled - set(targets)):
        notes.say(path, f"{model!r} is no model of this route in model_list", "correct the name")


def _complete(plan: Plan) -> None:
    """`complete: true`: what the file leaves out of a row that it names is at its default."""
    if plan.gateway:
        fields.complete(plan.gateway, GatewaySettings)
    kinds: tuple[tuple[dict[Any, PlannedRow], Any, str], ...] = (
        (plan.teams, Team, "slug"),
        (plan.providers, Provider, "slug"),
        (plan.routes, ModelRoute, "name"),
        (plan.targets, RouteTarget, "upstream_model"),
        (plan.keys, ApiKey, "name"),
    )
    for rows, model, identity in kinds:
        for row in rows.values():
            fields.complete(row, model, identity)
    for row in plan.providers.values():
        if "api_key" not in row.kept:
            row.values.setdefault("api_key", Credential(""))
    for row in plan.routes.values():
        row.values.setdefault("over_limit_route", "")
    plan.fallbacks |= fallbacks.missing(plan.fallbacks, plan.routes)
    for row in plan.keys.values():
        row.values.setdefault("team", "")
        row.values.setdefault("allowed_routes", [])
