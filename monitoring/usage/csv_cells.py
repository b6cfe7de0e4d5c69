"""CSV that a spreadsheet may open."""

from typing import Any

FORMULAS = tuple("=+-@\t\r\n\0\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the beginning of a formula, or drops and looks at what follows."""


def safe(line: dict[str, Any]) -> dict[str, Any]:
    """No cell is a formula: names are callers' own words. All CSV goes through here."""
    return {name: _text(value) if isinstance(value, str) else value for name, value in line.items()}


def _text(value: str) -> str:
    return f"'{value}" if value.lstrip(" ").startswith(FORMULAS) else value


class Line:
    """What a csv writer writes to, one line at a time."""

    def write(self, text: str) -> str:
        return text
