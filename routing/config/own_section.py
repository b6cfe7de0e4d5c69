"""`switchstand`: what LiteLLM's format has no word for. What it says holds over the other sections."""

from dataclasses import dataclass, field
from typing import Any

from routing.config import fields, values
from routing.config.keys import hash_of, read_credential, read_secret_headers
from routing.config.plan import PlannedRow
from routing.config.section import Section
from routing.config.values import ABSENT, Bad
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
    own.keys = {name: row for name, found in _each(section, "keys") if (row := _key(found)) is not None}
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
    section.raw("over_limit_route")
    row = _row(section, ModelRoute, "name")
    row.take("over_limit_route", section, "over_limit_route", values.text)
    return row


def _provider(section: Section) -> PlannedRow:
    api_key, headers = read_credential(section), read_secret_headers(section)
    row = _row(section, Provider, "slug")
    row.kept = {
        name
        for name, found in (("api_key", api_key), ("extra_headers", headers))
        if found is ABSENT and section.raw(_WRITTEN_AS.get(name, name)) is not ABSENT
    }
    row.say("api_key", api_key, section.at("api_key"))
    row.say("encrypted_headers", headers, section.at("encrypted_headers"))
    return row


def _key(section: Section) -> PlannedRow | None:
    """None where the key can't be told from others; one whose limits can't be taken is closed later."""
    given = {name: section.read(name, convert) for name, convert in _WHAT_A_KEY_IS.items()}
    for name, value in given.items():
        if value is ABSENT or isinstance(value, Bad):
            bad = value if isinstance(value, Bad) else Bad("is missing", "write it")
            section.notes.say(section.at(name), f"{bad.reason}; this key is left out", bad.remedy)
            return None
    for name in ("team", "allowed_routes", "restricted"):
        section.raw(name)
    row = _row(section, ApiKey, "name")
    row.say("key_hash", given["sha256"], section.at("sha256"))
    row.say("prefix", given["prefix"], section.at("prefix"))
    row.take("team", section, "team", values.text)
    row.take("allowed_routes", section, "allowed_routes", values.texts)
    row.take("restricted", section, "restricted", values.flag)
    return row


_WRITTEN_AS = {"extra_headers": "encrypted_headers"}
_WHAT_A_KEY_IS = {"sha256": hash_of, "prefix": values.text}
