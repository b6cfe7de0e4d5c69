"""What a file asks to be guarded by, and nothing here does: guardrails, addresses, budgets of users."""

from dataclasses import dataclass
from typing import Any

from routing.config.reasons import GUARDING_CALLBACKS, INACTIVE_GUARDS
from routing.config.section import Section


@dataclass(frozen=True, slots=True)
class Guard:
    name: str
    place: str


def read_guards(section: Section) -> list[Guard]:
    """Looks only: what is there is reported as a key without effect."""
    found = []
    for word in section.names():
        value = section.peek(word)
        if word == "guardrails":
            found += [Guard(name, section.at(word)) for name in _guardrail_names(value)]
        elif word in INACTIVE_GUARDS and value not in (None, [], {}):
            found.append(Guard(word, section.at(word)))
        elif word in ("callbacks", "success_callback"):
            found += [Guard(name, section.at(word)) for name in _texts(value) if name in GUARDING_CALLBACKS]
    return found


def _guardrail_names(value: Any) -> list[str]:
    """`[{guardrail_name: x, ...}]`, or the older `[{x: {...}}]`."""
    names: list[str] = []
    for item in value if isinstance(value, list) else [value] if value else []:
        if isinstance(item, dict):
            named = item.get("guardrail_name")
            names += [named] if isinstance(named, str) else list(item)
        elif isinstance(item, str):
            names.append(item)
    return [name[:100] for name in names]


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]
