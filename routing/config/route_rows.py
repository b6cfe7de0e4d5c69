"""The routes that a file's entries name, and their targets."""

import copy

from routing.config import accounts
from routing.config.model_list import Entry
from routing.config.plan import PlannedRow, TargetId
from routing.config.report import Notes
from routing.config.section import ABSENT
from routing.config.settings_sections import Link


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
        if entry.deadline is not ABSENT and entry.deadline > row.values.get("deadline", 0):
            row.say("deadline", entry.deadline, entry.paths["timeout"])
        self._add_parameters(row, entry)

    def link_aliases(self, links: list[Link]) -> None:
        for link in links:
            if self._known(link):
                row = self.rows[link.route]
                row.additions.setdefault("aliases", []).extend(link.names)
                row.paths["aliases"] = link.path

    def settle(self, every_route: PlannedRow) -> None:
        for row in self.rows.values():
            row.fill(every_route)

    def _add_target(self, entry: Entry, provider: str) -> None:
        identity = TargetId(entry.route, provider, entry.upstream_model)
        if identity in self.targets:
            first = self.targets[identity].path
            self.notes.problem(entry.path, f"is the same model of the same provider as {first}")
        else:
            entry.target.path = entry.path
            self.targets[identity] = entry.target

    def _add_parameters(self, row: PlannedRow, entry: Entry) -> None:
        said = row.additions.get("default_parameters", {})
        for name, value in entry.parameters.items():
            path = f"{entry.provider.path}.{name}"
            if name in said and said[name] != value:
                self.notes.warn(path, "no effect: an earlier entry of the same route says otherwise")
            else:
                row.add_to_mapping("default_parameters", {name: value}, path)

    def _known(self, link: Link) -> bool:
        if link.route not in self.rows:
            self.notes.problem(link.path, f"{link.route!r} is no model_name of this file")
        return link.route in self.rows
