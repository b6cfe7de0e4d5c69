"""What a file asks for, as plain rows; nothing here touches the database."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from routing.config.fallbacks import FallbackList
from routing.config.section import ABSENT


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
    floors: dict[str, float] = field(default_factory=dict)  # raised where it is lower
    paths: dict[str, str] = field(default_factory=dict)

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
            if name not in self.values:
                self.say(name, value, other.paths[name])

    def overrule(self, other: "PlannedRow") -> None:
        """Take all that the other says."""
        for name, value in other.values.items():
            self.say(name, value, other.paths[name])
            for softer in (self.initial, self.additions, self.floors):
                softer.pop(name, None)

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
    lists_models: bool = False  # whether the file has a model_list at all
