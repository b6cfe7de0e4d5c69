"""LiteLLM's timeouts are of one call; the deadline is made for all calls of a request."""

from collections.abc import Collection, Mapping
from typing import Any

from routing.config.fallbacks import FallbackList
from routing.config.plan import PlannedRow, TargetId
from routing.config.report import Notes
from routing.models import ModelRoute, Provider
from routing.models.fallback import FallbackKind

LONGEST = 3600  # seconds that a deadline may have
USUAL_DEADLINE = ModelRoute._meta.get_field("deadline").get_default()
_USUAL_RETRIES = Provider._meta.get_field("retries").get_default()


def settle_timeouts(rows: Mapping[str, PlannedRow], notes: Notes) -> set[str]:
    """Of each route, `timeout` and `stream_timeout` become its own two. Returns the routes that have one."""
    timed = set()
    for name, row in rows.items():
        for word in ("timeout", "stream_timeout"):
            _drop_what_is_none(row, word, notes)
        whole, stream = row.values.pop("timeout", None), row.values.pop("stream_timeout", None)
        if whole is None and stream is None:
            continue
        timed.add(name)
        if whole is None:
            notes.say(
                row.at("stream_timeout"),
                "bounds whole answers as well, as the only timeout of this route",
                "write timeout beside it",
            )
        elif stream is not None and stream < whole:
            row.say("first_byte_timeout", stream, row.at("stream_timeout"))
        longest = max(seconds for seconds in (whole, stream) if seconds is not None)
        row.say("attempt_timeout", longest, row.at("stream_timeout" if whole is None else "timeout"))
    return timed


def _drop_what_is_none(row: PlannedRow, word: str, notes: Notes) -> None:
    bad = row.bad.pop(word, None)
    if bad:
        notes.say(row.at(word), f"{bad.reason}; this setting is left out", bad.remedy)
    elif row.values.get(word, 1) <= 0:
        notes.say(
            row.at(word), f"{row.values.pop(word)} is no time; this setting is left out", "write seconds"
        )


def settle_deadlines(
    routes: Mapping[str, PlannedRow],
    timed: Collection[str],
    targets: Collection[TargetId],
    providers: Mapping[str, PlannedRow],
    lists: Mapping[tuple[str, str], FallbackList],
) -> None:
    """After all that the calls' times and numbers depend on."""
    for name in timed:
        row = routes[name]
        seconds = row.values.get("attempt_timeout")
        if seconds is None:  # as the file's own section says
            continue
        if "deadline" not in row.values:
            own = [providers[target.provider] for target in targets if target.route == name]
            others = lists.get((name, FallbackKind.ERROR))
            calls = sum(int(_retries(provider)) + 1 for provider in own) + len(others.names if others else ())
            row.say("deadline", max(USUAL_DEADLINE, min(LONGEST, seconds * calls)), row.at("attempt_timeout"))


def _retries(provider: PlannedRow) -> Any:
    return provider.values.get("retries", _USUAL_RETRIES)
