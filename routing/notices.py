"""What this process wants admins to know now; whoever knows it adds a source."""

from collections.abc import Callable

Source = Callable[[], str]
"""Returns the notice, "" while there is none. Must not block."""

_sources: dict[str, Source] = {}


def add(subject: str, source: Source) -> None:
    """One source per subject: a later one replaces it."""
    _sources[subject] = source


def current() -> list[str]:
    return [text for source in _sources.values() if (text := source())]
