"""`switchstand`: what LiteLLM's format has no word for. What it says holds over the other sections."""

from dataclasses import dataclass, field
from typing import Any

from routing.config import fields
from routing.config.keys import read_credential, read_hash, read_secret_headers
from routing.config.plan import PlannedRow
from routing.config.section import ABSENT, Section
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, Team


@dataclass(slots=True)
class OwnSection:
    complete: bool = False
    gateway: PlannedRow | None = None
    teams: dict[str, PlannedRow] = field(default_factory=dict)
    providers: dict[str, PlannedRow] = field(default_factory=dict)
    routes: dict[str, PlannedRow] = field(default_factory=dict)
    disabled_targets: dict[str, list[str]] = field(default_factory=dict)  # by route
    keys: dict[str, PlannedRow] = field(default_factory=dict)

    def whole_providers(self) -> dict[str, str]:
        """Those that need no model_list entry to say where they are: slug -> base URL."""
        return {
            slug: row.values["base_url"] for slug, row in self.providers.items() if "base_url" in row.values
        }


def read(section: Section) -> OwnSection:
    own = OwnSection(complete=section.flag("complete") is True)
    if section.raw("gateway_settings") is not ABSENT:
        own.gateway = _row(section.section("gateway_settings"), GatewaySettings)
    own.teams = {slug: _row(found, Team, "slug") for slug, found in _each(section, "teams")}
    own.providers = {slug: _provider(found) for slug, found in _each(section, "providers")}
    for name, found in _each(section, "routes"):
        if (disabled := found.texts("disabled_targets")) is not ABSENT:
            own.disabled_targets[name] = disabled
        own.routes[name] = _route(found)
    own.keys = {name: _key(found) for name, found in _each(section, "keys")}
    section.finish()
    return own


def _each(section: Section, name: str) -> list[tuple[str, Section]]:
    rows = section.section(name)
    return [(key, rows.section(key)) for key in rows.names()]


def _row(section: Section, model: Any, identity: str = "") -> PlannedRow:
    row = PlannedRow(section.path)
    fields.read_fields(section, row, model, identity)
    section.finish()
    return row


def _route(section: Section) -> PlannedRow:
    other = section.text("over_limit_route")
    row = _row(section, ModelRoute, "name")
    row.say("over_limit_route", other, section.at("over_limit_route"))
    return row


def _provider(section: Section) -> PlannedRow:
    api_key, headers = read_credential(section), read_secret_headers(section)
    row = _row(section, Provider, "slug")
    row.say("api_key", api_key, section.at("api_key"))
    row.say("encrypted_headers", headers, section.at("encrypted_headers"))
    return row


def _key(section: Section) -> PlannedRow:
    key_hash, prefix = read_hash(section, "sha256"), section.needed_text("prefix")
    team, routes = section.text("team"), section.texts("allowed_routes")
    restricted = section.flag("restricted")
    row = _row(section, ApiKey, "name")
    row.say("key_hash", key_hash, section.at("sha256"))
    row.say("prefix", prefix, section.at("prefix"))
    row.say("team", team, section.at("team"))
    row.say("allowed_routes", routes, section.at("allowed_routes"))
    row.say("restricted", restricted, section.at("restricted"))
    return row
