"""LiteLLM's budget durations -> the gateway's calendar periods: the same, else the stricter neighbour."""

import re

from routing.config import values
from routing.config.plan import PlannedRow
from routing.config.section import Section
from routing.config.values import ABSENT, Bad

_EXACT = {"1d": "day", "24h": "day", "7d": "week", "1w": "week", "30d": "month", "1mo": "month"}
_DURATION = re.compile(r"(?P<number>[0-9]{1,9})(?P<unit>mo|[smhdwMy])?")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "mo": 2592000, "M": 2592000, "y": 31536000}
_WORDS = {"hourly": "1h", "daily": "1d", "weekly": "7d", "monthly": "1mo", "yearly": "365d"}
_LONGEST = (("day", 86400), ("week", 604800), ("month", 2592000))
_NAMES = {"day": "a day", "week": "a week", "month": "a month", "total": "once, without a reset"}
_REMEDY = "write 1d, 7d or 1mo, or another amount"


def read_budget(row: PlannedRow, section: Section, amount: str, duration: str) -> None:
    """A budget without a duration never resets, as with LiteLLM."""
    row.take("budget_usd", section, amount, values.decimal)
    word = section.read(duration, values.text)
    if word is not ABSENT:
        row.say("budget_period", _period(section, duration, word), section.at(duration))
    elif "budget_usd" in row.values:
        row.say("budget_period", "total", section.at(amount))


def _period(section: Section, name: str, word: str | Bad) -> str:
    if isinstance(word, str):
        word = _WORDS.get(word.strip().lower(), word.strip())
        if word in _EXACT:
            return _EXACT[word]
    found = _DURATION.fullmatch(word) if isinstance(word, str) else None
    if found is None or int(found["number"]) == 0:
        reason = word.reason if isinstance(word, Bad) else f"{word[:20]!r} is not a duration"
        section.notes.say(section.at(name), f"{reason}; the budget is spent {_NAMES['total']}", _REMEDY)
        return "total"
    seconds = int(found["number"]) * _SECONDS[found["unit"] or "s"]
    period = next((period for period, longest in _LONGEST if seconds <= longest), "total")
    if seconds not in dict(_LONGEST).values():
        section.notes.say(
            section.at(name),
            f"periods are days, weeks and months: the same amount holds {_NAMES[period]}, which is stricter",
            _REMEDY,
        )
    return period
