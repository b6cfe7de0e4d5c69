"""The file's sections beside model_list: what they set for all providers, all routes, or by name."""

from dataclasses import dataclass, field
from typing import Any

from routing.config import fallbacks, reasons, values
from routing.config.fallbacks import FallbackList
from routing.config.guards import Guard, read_guards
from routing.config.keys import read_secret
from routing.config.plan import GatewaySecret, PlannedRow
from routing.config.section import Section
from routing.config.shares import Share, read_shares
from routing.config.values import ABSENT, Bad, Convert

PROXY_KEY, MASTER_KEY = "proxy", "master"
STRATEGIES_HERE = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "lowest_latency",
    "cost-based-routing": "lowest_cost",
}
"""LiteLLM's routing_strategy -> ours."""
NEAREST_STRATEGIES = {"usage-based-routing": "least_busy", "usage-based-routing-v2": "least_busy"}


@dataclass(frozen=True, slots=True)
class Link:
    """A route's further names, and where the file says so."""

    path: str
    route: str
    names: tuple[str, ...]


@dataclass(slots=True)
class Settings:
    every_provider: PlannedRow
    every_route: PlannedRow
    every_target: PlannedRow
    headers: dict[str, str] = field(default_factory=dict)
    headers_path: str = ""
    by_provider: dict[str, PlannedRow] = field(default_factory=dict)
    gateway: PlannedRow | None = None
    secrets: list[GatewaySecret] = field(default_factory=list)
    aliases: list[Link] = field(default_factory=list)
    fallbacks: list[FallbackList] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)


def read(root: Section) -> Settings:
    """The more specific sections first: what is said already stays."""
    settings = Settings(PlannedRow(root.path), PlannedRow(root.path), PlannedRow(root.path))
    settings.guards = read_guards(root)
    for name, read_section in _READERS.items():
        section = root.section(name)
        settings.guards += read_guards(section)
        read_section(section, settings)
    return settings


def _router_settings(section: Section, settings: Settings) -> None:
    settings.fallbacks += fallbacks.read(section)
    settings.aliases += _aliases(section)
    _unless_said(settings.every_provider, "retries", section, "num_retries")
    _unless_said(settings.every_route, "timeout", section, "timeout")
    _unless_said(settings.every_route, "stream_timeout", section, "stream_timeout")
    _unless_said(settings.every_target, "parallel", section, "default_max_parallel_requests")
    settings.shares += read_shares(section)
    _strategy(section, settings)
    _breaker(section, settings)
    section.finish(reasons.ROUTER)


def _litellm_settings(section: Section, settings: Settings) -> None:
    settings.fallbacks += fallbacks.read(section)
    _unless_said(settings.every_provider, "retries", section, "num_retries")
    _allowed_fails(section, settings)
    _unless_said(settings.every_route, "timeout", section, "request_timeout")
    _unless_said(settings.every_target, "parallel", section, "max_parallel_requests")
    settings.shares += read_shares(section)
    section.finish(reasons.LITELLM)


def _strategy(section: Section, settings: Settings) -> None:
    word = section.text("routing_strategy")
    if word is ABSENT:
        return
    place, known = section.at("routing_strategy"), ", ".join(STRATEGIES_HERE)
    found = STRATEGIES_HERE.get(word) or NEAREST_STRATEGIES.get(word)
    if found:
        settings.every_route.say("strategy", found, place)
    if word in NEAREST_STRATEGIES:
        section.notes.say(
            place,
            f"{word} is not there; the target with the fewest open requests is taken instead",
            "write least-busy",
        )
    elif not found:
        section.notes.say(place, f"no effect: known are {known}", "write one of these")


def _breaker(section: Section, settings: Settings) -> None:
    _gateway(settings, "cooldown_seconds", section, "cooldown_time")
    off = section.flag("disable_cooldowns")
    if off is not ABSENT:
        _gateway(settings, "breaker_enabled", section, "disable_cooldowns", lambda _: not off)
    _allowed_fails(section, settings)


def _allowed_fails(section: Section, settings: Settings) -> None:
    """LiteLLM's number is of failures that are forgiven: the next one counts."""
    _gateway(settings, "breaker_failures", section, "allowed_fails", _first_that_counts)


def _first_that_counts(forgiven: Any) -> Any:
    found = values.decimal(forgiven)
    return found if isinstance(found, Bad) else found + 1


def _gateway(
    settings: Settings, name: str, section: Section, word: str, convert: Convert = values.decimal
) -> None:
    if section.raw(word) is not ABSENT:
        settings.gateway = settings.gateway or PlannedRow(section.path)
        _unless_said(settings.gateway, name, section, word, convert)


def _general_settings(section: Section, settings: Settings) -> None:
    settings.secrets += read_secret(section, "master_key", MASTER_KEY)
    _health_interval(section, settings)
    _unless_said(settings.every_target, "parallel", section, "max_parallel_requests")
    settings.shares += read_shares(section)
    configs = section.section("default_provider_configs")
    for slug in configs.names():
        settings.by_provider[slug] = _provider_config(configs.section(slug))
    section.finish(reasons.GENERAL)


def _top_parameters(section: Section, settings: Settings) -> None:
    settings.secrets += read_secret(section, "api_key", PROXY_KEY)
    settings.secrets += read_secret(section, "master_key", MASTER_KEY)
    _health_interval(section, settings)
    every = settings.every_provider
    _unless_said(every, "connect_timeout", section, "connection_timeout")
    _unless_said(every, "read_timeout", section, "read_timeout")
    if (headers := section.mapping("custom_headers")) is not ABSENT:
        settings.headers, settings.headers_path = headers, section.at("custom_headers")
    _gateway(settings, "cors_origins", section, "cors_origins", values.texts)
    section.finish(reasons.TOP_PARAMETERS)


_READERS = {
    "router_settings": _router_settings,
    "litellm_settings": _litellm_settings,
    "general_settings": _general_settings,
    "litellm_params": _top_parameters,
}


def _health_interval(section: Section, settings: Settings) -> None:
    _unless_said(settings.every_provider, "health_interval", section, "health_check_interval")


def _provider_config(section: Section) -> PlannedRow:
    row = PlannedRow(section.path)
    row.take("rpm", section, "requests_per_minute", values.decimal)
    row.take("retries", section, "max_retries", values.decimal)
    row.take("retry_delay", section, "retry_delay", values.decimal)
    row.take("read_timeout", section, "timeout", values.decimal)
    section.finish()
    return row


def _unless_said(
    row: PlannedRow, name: str, section: Section, word: str, convert: Convert = values.decimal
) -> None:
    if section.raw(word) is ABSENT:
        return
    if name in row.values or name in row.bad:
        section.notes.say(
            section.at(word), f"no effect: {row.paths[name]} says it already", "keep one of the two"
        )
        return
    row.take(name, section, word, convert)


def _aliases(section: Section) -> list[Link]:
    """`model_group_alias: {alias: route}`, or `{alias: {model: route, hidden: true}}`"""
    aliases = section.section("model_group_alias")
    links = []
    for alias in aliases.names():
        path = aliases.at(alias)
        if isinstance(aliases.raw(alias), dict):
            details = aliases.section(alias)
            route = details.text("model")
            details.finish({"hidden": "an alias is listed beside its route's name"})
        else:
            route = aliases.text(alias)
        if route is not ABSENT:
            links.append(Link(path, route, (alias,)))
    return links
