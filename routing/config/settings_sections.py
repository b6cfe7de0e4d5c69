"""The file's sections beside model_list: what they set for all providers, all routes, or by name."""

from dataclasses import dataclass, field
from typing import Any

from routing.config import fallbacks, reasons
from routing.config.fallbacks import FallbackList
from routing.config.keys import read_secret
from routing.config.plan import GatewaySecret, PlannedRow
from routing.config.section import ABSENT, Section

PROXY_KEY, MASTER_KEY = "proxy", "master"
STRATEGIES_HERE = {
    "simple-shuffle": "weighted",
    "least-busy": "least_busy",
    "latency-based-routing": "lowest_latency",
    "cost-based-routing": "lowest_cost",
}
"""LiteLLM's routing_strategy -> ours."""


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
    headers: dict[str, str] = field(default_factory=dict)
    headers_path: str = ""
    by_provider: dict[str, PlannedRow] = field(default_factory=dict)
    gateway: PlannedRow | None = None
    secrets: list[GatewaySecret] = field(default_factory=list)
    aliases: list[Link] = field(default_factory=list)
    fallbacks: list[FallbackList] = field(default_factory=list)


def read(root: Section) -> Settings:
    """The more specific sections first: what is said already stays."""
    settings = Settings(PlannedRow(root.path), PlannedRow(root.path))
    _router_settings(root.section("router_settings"), settings)
    _litellm_settings(root.section("litellm_settings"), settings)
    _general_settings(root.section("general_settings"), settings)
    _top_parameters(root.section("litellm_params"), settings)
    return settings


def _router_settings(section: Section, settings: Settings) -> None:
    settings.fallbacks += fallbacks.read(section)
    settings.aliases += _aliases(section)
    _unless_said(settings.every_provider, "retries", section, "num_retries", section.whole("num_retries"))
    _unless_said(settings.every_route, "deadline", section, "timeout", section.number("timeout"))
    _strategy(section, settings)
    _breaker(section, settings)
    section.finish(reasons.ROUTER)


def _litellm_settings(section: Section, settings: Settings) -> None:
    settings.fallbacks += fallbacks.read(section)
    _unless_said(settings.every_provider, "retries", section, "num_retries", section.whole("num_retries"))
    _allowed_fails(section, settings)
    seconds = section.number("request_timeout")
    _unless_said(settings.every_route, "deadline", section, "request_timeout", seconds)
    section.finish(reasons.LITELLM)


def _strategy(section: Section, settings: Settings) -> None:
    word = section.text("routing_strategy")
    if word is ABSENT:
        return
    if word in STRATEGIES_HERE:
        settings.every_route.say("strategy", STRATEGIES_HERE[word], section.at("routing_strategy"))
    else:
        known = ", ".join(STRATEGIES_HERE)
        section.notes.warn(section.at("routing_strategy"), f"no effect: known are {known}")


def _breaker(section: Section, settings: Settings) -> None:
    _gateway(settings, "cooldown_seconds", section, "cooldown_time", section.number("cooldown_time"))
    if (off := section.flag("disable_cooldowns")) is not ABSENT:
        _gateway(settings, "breaker_enabled", section, "disable_cooldowns", not off)
    _allowed_fails(section, settings)


def _allowed_fails(section: Section, settings: Settings) -> None:
    """LiteLLM's number is of failures that are forgiven: the next one counts."""
    if (forgiven := section.whole("allowed_fails")) is not ABSENT:
        _gateway(settings, "breaker_failures", section, "allowed_fails", forgiven + 1)


def _gateway(settings: Settings, name: str, section: Section, word: str, value: Any) -> None:
    if value is not ABSENT:
        settings.gateway = settings.gateway or PlannedRow(section.path)
        _unless_said(settings.gateway, name, section, word, value)


def _general_settings(section: Section, settings: Settings) -> None:
    settings.secrets += read_secret(section, "master_key", MASTER_KEY)
    _health_interval(section, settings)
    configs = section.section("default_provider_configs")
    for slug in configs.names():
        settings.by_provider[slug] = _provider_config(configs.section(slug))
    section.finish(reasons.GENERAL)


def _top_parameters(section: Section, settings: Settings) -> None:
    settings.secrets += read_secret(section, "api_key", PROXY_KEY)
    settings.secrets += read_secret(section, "master_key", MASTER_KEY)
    _health_interval(section, settings)
    every = settings.every_provider
    _unless_said(
        every, "connect_timeout", section, "connection_timeout", section.number("connection_timeout")
    )
    _unless_said(every, "read_timeout", section, "read_timeout", section.number("read_timeout"))
    if (headers := section.mapping("custom_headers")) is not ABSENT:
        settings.headers, settings.headers_path = headers, section.at("custom_headers")
    if (origins := section.texts("cors_origins")) is not ABSENT:
        _gateway(settings, "cors_origins", section, "cors_origins", origins)
    section.finish(reasons.TOP_PARAMETERS)


def _health_interval(section: Section, settings: Settings) -> None:
    seconds = section.whole("health_check_interval")
    _unless_said(settings.every_provider, "health_interval", section, "health_check_interval", seconds)


def _provider_config(section: Section) -> PlannedRow:
    row = PlannedRow(section.path)
    row.say("rpm", section.whole("requests_per_minute", low=1), section.at("requests_per_minute"))
    row.say("retries", section.whole("max_retries"), section.at("max_retries"))
    row.say("retry_delay", section.number("retry_delay"), section.at("retry_delay"))
    row.say("read_timeout", section.number("timeout"), section.at("timeout"))
    section.finish()
    return row


def _unless_said(row: PlannedRow, name: str, section: Section, word: str, value: Any) -> None:
    if value is ABSENT:
        return
    if name in row.values:
        section.notes.warn(section.at(word), f"no effect: {row.paths[name]} says it already")
        return
    row.say(name, value, section.at(word))


def _aliases(section: Section) -> list[Link]:
    """`model_group_alias: {alias: route}`, or `{alias: {model: route, hidden: true}}`"""
    aliases = section.section("model_group_alias")
    links = []
    for alias in aliases.names():
        path = aliases.at(alias)
        if isinstance(aliases.raw(alias), dict):
            details = aliases.section(alias)
            route = details.needed_text("model")
            details.finish({"hidden": "an alias is listed beside its route's name"})
        else:
            route = aliases.needed_text(alias)
        if route is not ABSENT:
            links.append(Link(path, route, (alias,)))
    return links
