"""Lists of fallbacks, to and from the database. Their order counts, whatever the positions are."""

from dataclasses import replace
from typing import Any

from routing.config.environment import escape_all
from routing.config.fallbacks import WORDS, FallbackList
from routing.config.plan import PlannedRow
from routing.config.report import Notes
from routing.config.rows import Writer
from routing.models import ModelRoute, RouteFallback

_CORRECT = "correct the name, or add an entry of this model_name"

Key = tuple[str, str]  # a route's name, a kind


def stored() -> dict[Key, list[RouteFallback]]:
    found: dict[Key, list[RouteFallback]] = {}
    links = RouteFallback.objects.select_related("route", "fallback")
    for link in links.order_by("route__name", "position", "pk"):
        found.setdefault((link.route.name, link.kind), []).append(link)
    return found


def dump() -> dict[str, Any]:
    lists = {key: [link.fallback.name for link in links] for key, links in stored().items()}
    found = {
        word: [{route: escape_all(names)} for (route, kind), names in lists.items() if kind == wanted]
        for word, wanted in WORDS.items()
    }
    return {word: entries for word, entries in found.items() if entries}


def write(lists: dict[Key, FallbackList], routes: dict[str, ModelRoute], writer: Writer) -> None:
    """After all routes are written: a list may name one that stands below."""
    # A link to or from a route that is to be deleted goes with it.
    there = {key: [link for link in links if link.fallback.name in routes] for key, links in stored().items()}
    for key, wanted in lists.items():
        if (known := _known(wanted, routes, writer.notes)) is not None:
            _write_list(known, there.get(key, []), routes, writer)


def _known(wanted: FallbackList, routes: dict[str, ModelRoute], notes: Notes) -> FallbackList | None:
    """The list without the names that can't be fallbacks; None where nothing is left of it."""
    aliases = {alias: name for name, row in routes.items() for alias in row.aliases}
    route = wanted.route if wanted.route in routes else aliases.get(wanted.route, wanted.route)
    if route not in routes:
        notes.say(wanted.path, f"unknown route {route!r}; this list is left out", _CORRECT)
        return None
    kept: list[str] = []
    for name in wanted.names:
        other = name if name in routes else aliases.get(name, name)
        if reason := _why_not(route, other, routes):
            notes.say(wanted.path, f"{reason}; it is left out of this list", _CORRECT)
        elif other not in kept:
            kept.append(other)
    found = replace(wanted, route=route, names=tuple(kept))
    return found if kept or not wanted.names else None


def _why_not(route: str, other: str, routes: dict[str, ModelRoute]) -> str:
    if other not in routes:
        return f"unknown route {other!r}"
    if other == route:
        return f"{other!r} can't be its own fallback"
    return f"{other!r} is no single model, as its name ends with a *" if other.endswith("*") else ""


def _write_list(
    wanted: FallbackList, links: list[RouteFallback], routes: dict[str, ModelRoute], writer: Writer
) -> None:
    there = {link.fallback.name: link for link in links}
    if tuple(there) == wanted.names:
        writer.unchanged += len(links)
        return
    for name, link in there.items():
        if name not in wanted.names:
            writer.delete(link, f"fallback {link}")
    for position, name in enumerate(wanted.names, 1):
        link = there.get(name) or RouteFallback(
            route=routes[wanted.route], fallback=routes[name], kind=wanted.kind
        )
        writer.write(link, PlannedRow(wanted.path, values={"position": position}), f"fallback {link}")
