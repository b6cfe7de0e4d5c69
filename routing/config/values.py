"""What stands in a file -> the value that is meant, or what is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Self

ABSENT: Any = object()
"""The key isn't there, has no value, or was reported: whatever it sets stays as it is."""

LARGEST = 10**15  # far above all that a setting allows, far below what arithmetic refuses


@dataclass(frozen=True, slots=True)
class Bad:
    """A value that can't be taken. Nothing of it is shown that may be a credential."""

    reason: str
    remedy: str = "correct the value"


class WrittenFloat(float):
    """A float that knows how it was written: as a name, 4.10 is not 4.1."""

    written: str

    def __new__(cls, value: float, written: str) -> "WrittenFloat":
        number = super().__new__(cls, value)
        number.written = written
        return number

    def __deepcopy__(self, memo: Any) -> Self:
        return self


class WrittenInt(int):
    written: str

    def __new__(cls, value: int, written: str) -> "WrittenInt":
        number = super().__new__(cls, value)
        number.written = written
        return number

    def __deepcopy__(self, memo: Any) -> Self:
        return self


Convert = Callable[[Any], Any]


def text(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(getattr(value, "written", value))
    # Not shown: it may hold a credential.
    return Bad("allowed is text", "put the value in quotes")


def decimal(value: Any) -> Any:
    """An exact number; YAML's floats count as written."""
    number = None
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = Decimal(str(getattr(value, "written", value)).replace("_", "").strip())
        except InvalidOperation:
            number = Decimal("NaN")
    if number is None or not number.is_finite():
        return Bad(f"{_shown(value)} is not a number", "write a plain number")
    return min(max(number, Decimal(-LARGEST)), Decimal(LARGEST))


def flag(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() in _WORDS:
        return _WORDS[value.strip().lower()]
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    return Bad(f"{_shown(value)} is not true or false", "write true or false")


_WORDS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


def moment(value: Any) -> Any:
    """An ISO date and time; without an offset it is UTC."""
    wrong = Bad(f"{_shown(value)} is not a date and time", "write it as 2030-01-31T12:00:00Z")
    if not isinstance(value, str):
        return wrong
    try:
        found = datetime.fromisoformat(value)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        return wrong


def texts(value: Any) -> Any:
    """A single text is a list of one."""
    found = [text(item) for item in (value if isinstance(value, list) else [value])]
    if any(isinstance(item, Bad) for item in found):
        return Bad("allowed is a list of texts", "write it as [one, two]")
    return found


def mapping(value: Any) -> Any:
    return value if isinstance(value, dict) else Bad("allowed is a mapping", "write it as {name: value}")


def anything(value: Any) -> Any:
    return value


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "what stands here"
    return repr(getattr(value, "written", value))[:60]
