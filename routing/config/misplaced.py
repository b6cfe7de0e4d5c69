"""Keys in the wrong section: taken where only one section can be meant, and reported."""

from typing import Any

from routing.config.report import Notes

ROUTER, LITELLM, GENERAL = "router_settings", "litellm_settings", "general_settings"

_SHARED = {
    "fallbacks",
    "context_window_fallbacks",
    "content_policy_fallbacks",
    "default_fallbacks",
    "num_retries",
    "allowed_fails",
}
WORDS = {
    ROUTER: {
        *_SHARED,
        "timeout",
        "stream_timeout",
        "model_group_alias",
        "routing_strategy",
        "cooldown_time",
        "disable_cooldowns",
        "default_max_parallel_requests",
        "provider_budget_config",
    },
    LITELLM: {*_SHARED, "request_timeout", "max_budget", "budget_duration", "max_parallel_requests"},
    GENERAL: {
        "master_key",
        "health_check_interval",
        "default_provider_configs",
        "max_parallel_requests",
        "global_max_parallel_requests",
    },
}
"""What each section says that takes effect."""


def put_right(document: dict[str, Any], notes: Notes) -> dict[str, Any]:
    """The document with its misplaced keys where they belong; reports name the place where they stand."""
    found = {
        name: dict(value) if name in WORDS and isinstance(value, dict) else value
        for name, value in document.items()
    }
    for section in ("", *WORDS):
        keys = found if not section else found.get(section)
        if isinstance(keys, dict):
            _move_out(found, keys, section, notes)
    return found


def _move_out(document: dict[str, Any], keys: dict[str, Any], section: str, notes: Notes) -> None:
    for name in list(keys):
        homes = [home for home, words in WORDS.items() if name in words]
        if not homes or section in homes or keys[name] is None:
            continue
        home = document.setdefault(homes[0], {})
        if home is None:
            home = document[homes[0]] = {}
        if isinstance(home, dict) and home.get(name) is not None:
            there = notes.moved.get(f"{homes[0]}.{name}", f"{homes[0]}.{name}")
            notes.say(_at(section, name), f"no effect: {there} says it already", "keep one of the two", name)
            del keys[name]
        elif isinstance(home, dict):
            home[name] = keys.pop(name)
            stands_at = _at(section, name)
            notes.say(stands_at, f"belongs into {homes[0]}; it is taken", f"move it to {homes[0]}.{name}")
            notes.moved[f"{homes[0]}.{name}"] = stands_at


def _at(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
