"""Lists of fallbacks, to and from the database. Their order counts, whatever the positions are."""

from typing import Any

from routing.config.environment import escape_all
from routing.config.fallbacks import WORDS, FallbackList
from routing.config.plan import PlannedRow
from routing.config.rows import Writer
from routing.models import ModelRoute, RouteFallback

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
        if _all_known(wanted, routes, writer):
            _write_list(wanted, there.get(key, []), routes, writer)


def _all_known(wanted: FallbackList, routes: dict[str, ModelRoute], writer: Writer) -> bool:
    names = (wanted.route, *wanted.names)
    for name in names:
        if name not in routes:
            writer.notes.problem(wanted.path, f"unknown route {name!r}")
    return all(name in routes for name in names)


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
