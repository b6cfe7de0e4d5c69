"""What a file asks for, as plain rows; nothing here touches the database."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from routing.config.fallbacks import FallbackList
from routing.config.guards import Guard
from routing.config.section import Section
from routing.config.values import ABSENT, Bad, Convert


@dataclass(slots=True)
class PlannedRow:
    """One row's fields, as far as the file speaks of them.

    What the file doesn't mention stays as an admin left it.
    """

    path: str
    values: dict[str, Any] = field(default_factory=dict, repr=False)  # set at each load
    initial: dict[str, Any] = field(default_factory=dict)  # only where the row is new
    additions: dict[str, Any] = field(
        default_factory=dict, repr=False
    )  # into a mapping or list that is there
    removals: dict[str, set[str]] = field(default_factory=dict)  # from a list that is there
    paths: dict[str, str] = field(default_factory=dict)
    bad: dict[str, Bad] = field(default_factory=dict)  # what can't be taken, until it is settled
    kept: set[str] = field(default_factory=set)  # could not be read: as it is, also in a complete file
    closed: bool = False  # disabled, because a limit or the like could not be taken

    def take(self, name: str, section: Section, word: str, convert: Convert) -> None:
        """What stands below the word; where it is wrong, `settle` decides what becomes of the row."""
        value = section.read(word, convert)
        if isinstance(value, Bad):
            self.bad[name] = value
            self.paths[name] = section.at(word)
        else:
            self.say(name, value, section.at(word))

    def say(self, name: str, value: Any, path: str) -> None:
        if value is not ABSENT:
            self.values[name] = value
            self.paths[name] = path

    def add_to_mapping(self, name: str, more: dict[str, Any], path: str) -> None:
        self.additions[name] = self.additions.get(name, {}) | more
        self.paths[name] = path

    def fill(self, other: "PlannedRow") -> None:
        """Take what the other says and this doesn't."""
        for name, value in other.values.items():
            if name not in self.values and name not in self.bad:
                self.say(name, value, other.paths[name])
        for name, bad in other.bad.items():
            if name not in self.values and name not in self.bad:
                self.bad[name] = bad
                self.paths[name] = other.paths[name]
        self.closed = self.closed or other.closed

    def overrule(self, other: "PlannedRow") -> None:
        """Take all that the other says."""
        for name, value in other.values.items():
            self.say(name, value, other.paths[name])
            self.bad.pop(name, None)
            for softer in (self.initial, self.additions):
                softer.pop(name, None)
        for name, bad in other.bad.items():
            self.bad[name] = bad
            self.paths[name] = other.paths[name]
        self.kept |= other.kept
        self.closed = self.closed or other.closed

    def at(self, name: str) -> str:
        return self.paths.get(name, self.path)


class TargetId(NamedTuple):
    route: str
    provider: str
    upstream_model: str

    @property
    def model(self) -> str:
        """As it stands under `model` in a file."""
        return f"{self.provider}/{self.upstream_model}"


@dataclass(frozen=True, slots=True)
class Credential:
    """A provider's API key; `token` is its encrypted form where the file holds that."""

    plaintext: str = field(repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class GatewaySecret:
    """A gateway key that stands in the file, by what is stored of it."""

    name: str
    key_hash: str
    prefix: str
    path: str


@dataclass(frozen=True, slots=True)
class Untaken:
    """An entry that is in the file's text and could not be taken; "" for what it doesn't say."""

    route: str
    model: str

    def covers(self, route: str, upstream_model: str) -> bool:
        return self.route in ("", route) and (not self.model or self.model.endswith(upstream_model))


@dataclass(slots=True)
class Plan:
    gateway: PlannedRow | None = None
    teams: dict[str, PlannedRow] = field(default_factory=dict)
    providers: dict[str, PlannedRow] = field(default_factory=dict)
    routes: dict[str, PlannedRow] = field(default_factory=dict)
    targets: dict[TargetId, PlannedRow] = field(default_factory=dict)
    fallbacks: dict[tuple[str, str], FallbackList] = field(default_factory=dict)  # by route and kind
    keys: dict[str, PlannedRow] = field(default_factory=dict)
    secrets: list[GatewaySecret] = field(default_factory=list)
    complete: bool = False
    lists_models: bool = False  # whether the file has a model_list with anything in it
    written: set[TargetId] = field(default_factory=set)  # targets that could be
    not_taken: list[Untaken] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)

    def may_mean(self, target: TargetId) -> bool:
        """Whether an entry that could not be taken may be this target's."""
        return any(entry.covers(target.route, target.upstream_model) for entry in self.not_taken)

    def may_mean_route(self, name: str) -> bool:
        return any(entry.route in ("", name) for entry in self.not_taken)
