"""Names for who asked for a wrong one: only those of models that the key may use."""

from collections.abc import Iterator
from difflib import get_close_matches

from routing.table import KeyEntry, RoutingTable

MOST_LOOKED_AT = 5000  # names
MOST_COMPARED = 50  # of those, letter by letter: it takes up to 0.1 ms each
LONGEST = 80  # characters
MOST_NAMED = 10


def did_you_mean(name: str, key: KeyEntry, table: RoutingTable) -> str:
    """A question, or nothing."""
    wanted = name[:LONGEST].casefold()
    likely: dict[str, str] = {}
    for candidate in _usable(key, table):
        folded = candidate[:LONGEST].casefold()
        if _may_be_meant(wanted, folded):
            likely.setdefault(folded, candidate)
            if len(likely) == MOST_COMPARED:
                break
    found = get_close_matches(wanted, likely, n=1, cutoff=0.6)
    return f" Did you mean {likely[found[0]]}?" if found else ""


def usable_models(key: KeyEntry, table: RoutingTable) -> str:
    """A sentence with the names of some."""
    names: list[str] = []
    for name in _usable(key, table):
        if len(names) == MOST_NAMED:
            return f" It may use {', '.join(names)} and more: GET /v1/models."
        names.append(name[:LONGEST])
    return f" It may use {', '.join(names)}." if names else " It may use none."


def _usable(key: KeyEntry, table: RoutingTable) -> Iterator[str]:
    for number, (name, found) in enumerate(table.routes.items()):
        if number == MOST_LOOKED_AT:
            return
        if key.may_use(found.route):
            yield name


def _may_be_meant(wanted: str, name: str) -> bool:
    if abs(len(wanted) - len(name)) > max(8, len(wanted) // 2):
        return False
    return wanted[:2] == name[:2] or wanted[-3:] == name[-3:] or wanted in name or name in wanted
