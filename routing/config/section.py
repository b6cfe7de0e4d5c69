"""One mapping of a file, read key by key. A key that nobody asks for is reported as unknown."""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from routing.config import environment, reasons, values
from routing.config.report import Notes
from routing.config.values import ABSENT, Bad, Convert

__all__ = ["ABSENT", "Section"]

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_REFERENCES = "write references to the environment as ${NAME}, ${NAME:-default} or os.environ/NAME"


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

    def peek(self, name: str) -> Any:
        """The value as written; who looks at it does not ask for it."""
        return self._data.get(name)

    def is_null(self, name: str) -> bool:
        self._asked.add(name)
        return name in self._data and self._data[name] is None

    def read(self, name: str, convert: Convert) -> Any:
        """The value, ABSENT, or what is wrong with it: a Bad, which nobody has reported yet."""
        value = self.raw(name)
        if value is ABSENT:
            return ABSENT
        try:
            return convert(environment.expand_all(value, own_secrets=name == "master_key"))
        except environment.NotSet as error:
            return Bad(str(error), error.remedy)
        except environment.OwnSecret as error:
            return Bad(str(error), "name a variable of its own")
        except environment.BadReference:
            return Bad("a reference to the environment has no name", _REFERENCES)

    def get(self, name: str, convert: Convert) -> Any:
        """The value; what is wrong with it is reported, and the setting left out."""
        value = self.read(name, convert)
        if isinstance(value, Bad):
            return self.leave_out(name, value)
        return value

    def leave_out(self, name: str, bad: Bad) -> Any:
        self.notes.say(self.at(name), f"{bad.reason}; this setting is left out", bad.remedy)
        return ABSENT

    def tree(self, name: str) -> Any:
        """Any value, with its references to the environment replaced."""
        return self.get(name, values.anything)

    def text(self, name: str) -> Any:
        return self.get(name, values.text)

    def flag(self, name: str) -> Any:
        return self.get(name, values.flag)

    def texts(self, name: str) -> Any:
        return self.get(name, values.texts)

    def mapping(self, name: str) -> Any:
        return self.get(name, values.mapping)

    def section(self, name: str) -> "Section":
        """The mapping below the key; an empty one where there is none."""
        value = self.raw(name)
        if value is not ABSENT and not isinstance(value, dict):
            self.leave_out(name, values.mapping(value))
        return Section(value if isinstance(value, dict) else {}, self.at(name), self.notes)

    def sections(self, name: str) -> list["Section"]:
        """The mappings in the list below the key; one that stands there by itself is a list of one."""
        value = self.raw(name)
        if value is ABSENT:
            return []
        items = [value] if isinstance(value, dict) else value
        if not isinstance(items, list):
            self.leave_out(
                name, Bad("allowed is a list of mappings", "write it as a list, each entry below a -")
            )
            return []
        found = [Section(item, f"{self.at(name)}[{n}]", self.notes) for n, item in enumerate(items)]
        return [section for section in found if self._is_mapping(section)]

    def _is_mapping(self, entry: "Section") -> bool:
        if isinstance(entry._data, dict):
            return True
        if entry._data is not None:
            self.notes.say(
                entry.path, "this entry is no mapping and is left out", "write it as {name: value}"
            )
        return False

    def finish(self, without_effect: Mapping[str, str] | None = None) -> None:
        """Report the keys that nobody asked for: why they have no effect, or that they are unknown."""
        for name, value in self._data.items():
            if name in self._asked or value is None:
                continue
            self._report_unasked(name, (without_effect or {}).get(name) or reasons.elsewhere(name))

    def _report_unasked(self, name: str, reason: str | None) -> None:
        if reason:
            self.notes.say(self.at(name), f"no effect: {reason}", reasons.remedy(name), name)
        else:
            self.notes.say(self.at(name), "unknown key, ignored", self._spelling(name, self._asked), name)

    @staticmethod
    def _spelling(name: str, known: Collection[str]) -> str:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        return f"write {near[0]}, if that is meant" if near else "take it out, or correct its spelling"
