"""Reads content as it was meant: a stream's pieces put together, nothing hides between two."""

import json
from collections.abc import Iterator
from typing import Any

_JOINED = {"delta", "text", "partial_json", "arguments", "thinking"}
"""Names under which a stream's texts are pieces; elsewhere its last value counts."""


def read(content: bytes) -> Any:
    """JSON as objects, a stream as one object, else text."""
    text = content.decode(errors="replace")
    try:
        return json.loads(text)
    except ValueError:
        events = list(_events(text))
    return _together(events) if events else text


def _events(text: str) -> Iterator[Any]:
    for block in text.replace("\r\n", "\n").split("\n\n"):
        data = "\n".join(line[5:].strip() for line in block.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            try:
                yield json.loads(data)
            except ValueError:
                yield data  # the last one, cut


def _together(events: list[Any]) -> Any:
    """By where its values are: those of pieces joined, else the last."""
    whole: Any = {}
    for event in events:
        if isinstance(event, dict):
            whole = _merged(whole, event, joined=False)
        elif isinstance(event, str):
            whole.setdefault("unread", []).append(event)
    return whole


def _merged(old: Any, new: Any, *, joined: bool) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        found = dict(old)
        for name, value in new.items():
            joins = joined or name in _JOINED
            found[name] = _merged(old.get(name), value, joined=joins)
        return found
    if isinstance(old, list) and isinstance(new, list):
        return _merged_lists(old, new, joined=joined)
    if joined and isinstance(old, str) and isinstance(new, str):
        return old + new
    return old if new is None else new


def _merged_lists(old: list[Any], new: list[Any], *, joined: bool) -> list[Any]:
    """Entries belong together by their `index`, else by their place."""
    found = {_index(entry, place): entry for place, entry in enumerate(old)}
    for place, entry in enumerate(new):
        index = _index(entry, place)
        found[index] = _merged(found.get(index), entry, joined=joined)
    return [found[index] for index in sorted(found)]


def _index(entry: Any, place: int) -> int:
    given = entry.get("index") if isinstance(entry, dict) else None
    return given if isinstance(given, int) else place
