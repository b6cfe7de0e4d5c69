"""The routes that a file's entries name, and their targets."""

import copy
from typing import Any

from routing.config import accounts
from routing.config.model_list import Entry
from routing.config.plan import PlannedRow, TargetId
from routing.config.report import Notes
from routing.config.settings_sections import Link
from routing.config.settle import LIMITS
from routing.config.values import ABSENT, Bad

_TIMES = {"timeout": "timeout", "stream_timeout": "stream_timeout"}


class RouteRows:
    def __init__(self, notes: Notes) -> None:
        self.rows: dict[str, PlannedRow] = {}
        self.targets: dict[TargetId, PlannedRow] = {}
        self.notes = notes

    def add(self, entry: Entry, provider: str, *, zai: bool) -> None:
        self._add_target(entry, provider)
        row = self.rows.setdefault(entry.route, PlannedRow(entry.path, paths={"name": entry.paths["route"]}))
        if zai:
            row.initial |= copy.deepcopy(accounts.ZAI_ROUTE)
        for name in _TIMES:
            seconds = getattr(entry, name)
            if seconds is not ABSENT and seconds > row.values.get(name, 0):
                row.say(name, seconds, entry.paths[name])
        self._add_parameters(row, entry)

    def link_aliases(self, links: list[Link]) -> None:
        given: dict[str, str] = {}
        for link in links:
            for alias in link.names:
                if reason := self._why_not(link, alias, given):
                    self.notes.say(link.path, f"{reason}; the alias is left out", "correct the name")
                    continue
                given[alias] = link.route
                row = self.rows[link.route]
                row.additions.setdefault("aliases", []).append(alias)
                row.paths["aliases"] = link.path

    def _why_not(self, link: Link, alias: str, given: dict[str, str]) -> str:
        if link.route not in self.rows:
            return f"{link.route!r} is no model_name of this file"
        if alias in self.rows:
            return f"{alias!r} is a model_name itself"
        return f"{alias!r} is an alias of {given[alias]!r} already" if alias in given else ""

    def fill(self, every_route: PlannedRow, every_target: PlannedRow) -> None:
        for row in self.rows.values():
            row.fill(every_route)
        for row in self.targets.values():
            row.fill(every_target)

    def _add_target(self, entry: Entry, provider: str) -> None:
        identity = TargetId(entry.route, provider, entry.upstream_model)
        first = self.targets.get(identity)
        if first is None:
            entry.target.path = entry.path
            self.targets[identity] = entry.target
        elif _adds(first, entry.target):
            first.values["weight"] += entry.target.values["weight"]
            _tighten(first, entry.target)
        else:
            self.notes.say(
                entry.path,
                f"is the same model of the same provider as {first.path}, with the smaller of their limits",
                "take one of them out, or give both a weight",
            )
            _tighten(first, entry.target)

    def _add_parameters(self, row: PlannedRow, entry: Entry) -> None:
        said = row.additions.get("default_parameters", {})
        for name, value in entry.parameters.items():
            path = f"{entry.provider.path}.{name}"
            if name in said and said[name] != value:
                self.notes.say(
                    path,
                    "no effect: an earlier entry of the same route says otherwise",
                    "write the same for all entries of a route, or give this one a model_name of its own",
                )
            else:
                row.add_to_mapping("default_parameters", {name: value}, path)


def _adds(first: PlannedRow, second: PlannedRow) -> bool:
    """Two weights of one target are one weight."""
    same = first.values.get("priority") == second.values.get("priority")
    return same and "weight" in first.values and "weight" in second.values


def _tighten(first: PlannedRow, second: PlannedRow) -> None:
    for name in (*LIMITS, "budget_usd"):
        _take_smaller(first, second, name)
    for name, bad in second.bad.items():
        _take_bad(first, name, bad, second.paths[name])
    first.closed = first.closed or second.closed
    if "budget_usd" in second.values and "budget_period" in second.values:
        both = [row.values["budget_period"] for row in (first, second) if "budget_period" in row.values]
        longest = max(both, key=("day", "week", "month", "total").index)
        first.say("budget_period", longest, second.paths["budget_period"])


def _take_smaller(first: PlannedRow, second: PlannedRow, name: str) -> None:
    theirs: Any = second.values.get(name)
    ours = first.values.get(name)
    if theirs is not None and (ours is None or theirs < ours):
        first.say(name, theirs, second.paths[name])


def _take_bad(first: PlannedRow, name: str, bad: Bad, path: str) -> None:
    first.bad.setdefault(name, bad)
    first.paths[name] = path
