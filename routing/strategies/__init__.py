"""In which order a route's targets are tried. One module per strategy: a new one is found by being here."""

import importlib
import pkgutil

from routing.strategies.base import Load, Loads, Pick, Strategy, in_levels

DEFAULT = "weighted"


def _find() -> dict[str, type[Strategy]]:
    found: dict[str, type[Strategy]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Strategy) and value is not Strategy:
                found[value.name] = value
    return dict(sorted(found.items()))


STRATEGIES = _find()
"""By the name that the database, the table and config files have."""


def choices() -> list[tuple[str, str]]:
    """For the model's field; a function, so that a new strategy needs no migration."""
    return [(name, strategy.label) for name, strategy in STRATEGIES.items()]


__all__ = ["DEFAULT", "STRATEGIES", "Load", "Loads", "Pick", "Strategy", "choices", "in_levels"]
