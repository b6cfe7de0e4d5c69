"""Lists of fallbacks, in LiteLLM's words: `fallbacks: [{route: [other, ...]}]`."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from routing.config import values
from routing.config.report import Notes
from routing.config.section import Section
from routing.config.values import ABSENT
from routing.models.fallback import FallbackKind

WORDS = {
    "fallbacks": FallbackKind.ERROR,
    "context_window_fallbacks": FallbackKind.CONTEXT,
    "content_policy_fallbacks": FallbackKind.POLICY,
}
EVERY_ROUTE = ""
"""Stands for the file's routes that have no list of that kind."""


@dataclass(frozen=True, slots=True)
class FallbackList:
    """The routes that one route falls back to, in their order, and where the file says so."""

    path: str
    route: str
    kind: FallbackKind
    names: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        return self.route, self.kind


def read(section: Section) -> list[FallbackList]:
    found = [
        FallbackList(item.at(route), route, kind, names)
        for word, kind in WORDS.items()
        for item in section.sections(word)
        for route in item.names()
        if (names := _names(item, route)) is not ABSENT
    ]
    if (names := _names(section, "default_fallbacks")) is not ABSENT:
        path = section.at("default_fallbacks")
        found.append(FallbackList(path, EVERY_ROUTE, FallbackKind.ERROR, names))
    return found


def _names(section: Section, word: str) -> Any:
    names = section.get(word, _route_names)
    if names is ABSENT:
        return ABSENT
    for name in sorted({name for name in names if names.count(name) > 1}):
        section.notes.say(section.at(word), f"{name!r} is listed twice; the first counts", "list it once")
    return tuple(dict.fromkeys(names))


def _route_names(value: Any) -> Any:
    """LiteLLM takes a mapping, too, of which only the model counts here."""
    items = value if isinstance(value, list) else [value]
    return values.texts([item.get("model") if isinstance(item, dict) else item for item in items])


def settle(
    lists: list[FallbackList], routes: Collection[str], notes: Notes
) -> dict[tuple[str, str], FallbackList]:
    """One list per route and kind: the first in the file, else what holds for every route of it."""
    said: dict[tuple[str, str], FallbackList] = {}
    for found in lists:
        if found.route == "*" and "*" not in routes:
            found = replace(found, route=EVERY_ROUTE)
        first = said.setdefault(found.key, found)
        if first.names != found.names:
            notes.say(found.path, f"no effect: {first.path} says it already", "keep one of the two")
    for kind in FallbackKind:
        if default := said.pop((EVERY_ROUTE, kind), None):
            _spread(default, routes, said)
    return said


def _spread(
    default: FallbackList, routes: Collection[str], said: dict[tuple[str, str], FallbackList]
) -> None:
    for route in routes:
        if others := tuple(name for name in default.names if name != route):
            said.setdefault((route, default.kind), replace(default, route=route, names=others))


def missing(said: Collection[tuple[str, str]], routes: dict[str, Any]) -> dict[tuple[str, str], FallbackList]:
    """Empty lists for what the file's routes don't say."""
    empty = (
        FallbackList(row.path, route, kind, ()) for route, row in routes.items() for kind in FallbackKind
    )
    return {found.key: found for found in empty if found.key not in said}
