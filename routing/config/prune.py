"""Deletes what the file doesn't list: targets, routes and unused providers; never a key or a team."""

from collections.abc import Iterable

from routing.config.gone import identity_of, what
from routing.config.plan import Plan
from routing.config.rows import Writer
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget


def prune_routes(
    plan: Plan, routes: dict[str, ModelRoute], targets: Iterable[RouteTarget], writer: Writer
) -> set[str]:
    """The providers of targets that stay, because an entry that could not be taken may mean them."""
    kept = set()
    for target in targets:
        identity = identity_of(target)
        if identity not in plan.targets and not plan.may_mean(identity):
            writer.delete(target, what(target))
        elif identity not in plan.targets:
            kept.add(identity.provider)
    unlisted = sorted(name for name in set(routes) - set(plan.routes) if not plan.may_mean_route(name))
    last_of_a_key = _only_routes_of_keys(plan, set(unlisted))
    for name in unlisted:
        if name in last_of_a_key:
            _disable(routes[name], last_of_a_key[name], writer)
        else:
            writer.delete(routes.pop(name), f"route {name}")
    return kept


def _only_routes_of_keys(plan: Plan, unlisted: set[str]) -> dict[str, str]:
    """Routes -> a key that would be left with none, which would open all routes to it."""
    found: dict[str, str] = {}
    for key in ApiKey.objects.prefetch_related("allowed_routes"):
        allowed = {route.name for route in key.allowed_routes.all()}
        if key.name in plan.keys:
            allowed = set(plan.keys[key.name].values.get("allowed_routes", allowed))
        if allowed <= unlisted:
            found |= dict.fromkeys(allowed, key.name)
    return found


def _disable(route: ModelRoute, key: str, writer: Writer) -> None:
    writer.notes.say(
        f"route {route.name}",
        f"disabled, not deleted: the API key {key} may use nothing else",
        "give the key another route or delete it, then load again",
    )
    if route.enabled:
        writer.disable(route, f"route {route.name}")
    else:
        writer.unchanged += 1


def prune_providers(plan: Plan, providers: dict[str, Provider], kept: set[str], writer: Writer) -> None:
    """`kept` are providers of targets that stay although the file doesn't list them."""
    used = {target.provider for target in plan.targets} | kept
    for slug in sorted(set(providers) - set(plan.providers)):
        if slug not in used:
            writer.delete(providers[slug], f"provider {slug}")
