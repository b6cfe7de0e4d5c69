"""One mapping of a file, read key by key. A key that nobody asks for is reported as unknown."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from routing.config import environment
from routing.config.report import Notes

ABSENT: Any = object()
"""The key isn't there, has no value, or was reported: whatever it sets stays as it is."""

LARGEST = 10**15  # far above all that a setting allows, far below what arithmetic refuses

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")


class Section:
    def __init__(self, data: Mapping[str, Any], path: str, notes: Notes) -> None:
        self._data = data
        self._asked: set[str] = set()
        self.path = path
        self.notes = notes

    def at(self, name: str) -> str:
        """Where the key stands in the file, for messages."""
        step = name if _PLAIN_KEY.fullmatch(name) else f'["{name}"]'
        separator = "." if self.path and not step.startswith("[") else ""
        return f"{self.path}{separator}{step}"

    def names(self) -> list[str]:
        return list(self._data)

    def raw(self, name: str) -> Any:
        """The value as written, references to the environment included."""
        self._asked.add(name)
        value = self._data.get(name)
        return ABSENT if value is None else value

    def is_null(self, name: str) -> bool:
        self._asked.add(name)
        return name in self._data and self._data[name] is None

    def tree(self, name: str) -> Any:
        """Any value, with its references to the environment replaced."""
        value = self.raw(name)
        if value is ABSENT:
            return ABSENT
        try:
            return environment.expand_all(value, own_secrets=name == "master_key")
        except environment.NotSet as error:
            self.notes.warn(self.at(name), f"{error}; this setting is left out")
        except environment.OwnSecret as error:
            self.notes.warn(self.at(name), f"{error}; this setting is left out")
        except environment.BadReference:
            self.problem(name, "allowed references to the environment are ${NAME} and os.environ/NAME")
        return ABSENT

    def text(self, name: str) -> Any:
        value = self.tree(name)
        if value is ABSENT or isinstance(value, str):
            return value
        # Not shown: an unquoted number may be a credential.
        return self.problem(name, "allowed is text (a number needs quotes)")

    def needed_text(self, name: str) -> Any:
        if self.raw(name) is ABSENT:
            return self.problem(name, "is missing")
        reported = len(self.notes.problems)
        value = self.text(name)
        if value is ABSENT and len(self.notes.problems) == reported:
            self.problem(name, "is needed, and its environment variable is not set")
        return value

    def whole(self, name: str, low: int = 0) -> Any:
        value = self.tree(name)
        if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is ABSENT or (isinstance(value, int) and not isinstance(value, bool) and value >= low):
            return value
        return self._not(name, f"a whole number of {low} or more")

    def decimal(self, name: str) -> Any:
        """An exact number of 0 or more; YAML's floats count as written."""
        value = self.tree(name)
        if value is ABSENT:
            return ABSENT
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            number = Decimal("NaN")
        if isinstance(value, bool) or not number.is_finite() or not 0 <= number < LARGEST:
            return self._not(name, f"a number of 0 to {LARGEST:.0e}")
        return number

    def number(self, name: str) -> Any:
        number = self.decimal(name)
        return ABSENT if number is ABSENT else float(number)

    def flag(self, name: str) -> Any:
        value = self.tree(name)
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value is ABSENT or isinstance(value, bool):
            return value
        return self._not(name, "true or false")

    def moment(self, name: str) -> Any:
        """An ISO date and time; without an offset it is UTC."""
        value = self.text(name)
        if value is ABSENT:
            return ABSENT
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return self._not(name, "a date and time such as 2030-01-31T12:00:00Z")
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def texts(self, name: str) -> Any:
        value = self.tree(name)
        if value is ABSENT or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            return value
        return self.problem(name, "allowed is a list of texts")

    def mapping(self, name: str) -> Any:
        value = self.tree(name)
        if value is ABSENT or isinstance(value, dict):
            return value
        return self.problem(name, "allowed is a mapping")

    def section(self, name: str) -> "Section":
        """The mapping below the key; an empty one where there is none."""
        value = self.raw(name)
        if value is not ABSENT and not isinstance(value, dict):
            self.problem(name, "allowed is a mapping")
        return Section(value if isinstance(value, dict) else {}, self.at(name), self.notes)

    def sections(self, name: str) -> list["Section"]:
        """The mappings in the list below the key."""
        value = self.raw(name)
        if value is ABSENT:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(name, "allowed is a list of mappings")
            return []
        return [Section(item, f"{self.at(name)}[{n}]", self.notes) for n, item in enumerate(value)]

    def problem(self, name: str, text: str) -> Any:
        self.notes.problem(self.at(name), text)
        return ABSENT

    def _not(self, name: str, allowed: str) -> Any:
        value = self.raw(name)
        shown = repr(value) if not isinstance(value, dict | list) else "what stands here"
        return self.problem(name, f"{shown} is not {allowed}")

    def finish(self, without_effect: Mapping[str, str] | None = None) -> None:
        """Report the keys that nobody asked for: why they have no effect, or that they are unknown."""
        for name in self._data:
            if name in self._asked:
                continue
            reason = (without_effect or {}).get(name)
            text = f"no effect: {reason}" if reason else "unknown key, ignored"
            self.notes.warn(self.at(name), text)
