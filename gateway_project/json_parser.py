"""The management API's JSON: no NUL, no endless nesting."""

from typing import Any

from django.core.exceptions import SuspiciousOperation
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser


class BoundedJSONParser(JSONParser):
    """400 for what is nested too deeply, and for a NUL in a text."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        try:
            found = super().parse(stream, media_type, parser_context)
            refuse_nul(found)
        except RecursionError:
            raise ParseError("JSON parse error: nested too deeply") from None
        except SuspiciousOperation as error:
            raise ParseError(str(error)) from None
        return found


def refuse_nul(value: Any) -> None:
    """Raises SuspiciousOperation for a NUL anywhere in it, RecursionError for too many levels."""
    if isinstance(value, str):
        if "\0" in value:
            raise SuspiciousOperation("a text must hold no NUL")
    elif isinstance(value, dict):
        for name, inner in value.items():
            refuse_nul(name)
            refuse_nul(inner)
    elif isinstance(value, list):
        for inner in value:
            refuse_nul(inner)
