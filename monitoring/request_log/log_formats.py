"""Log lines without anything that looks like a credential, whoever wrote them."""

import logging
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from routing.credential_patterns import without_credentials


class Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text: str = without_credentials(super().format(record))
        return text


class Json(JsonFormatter):
    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        # As text: an object, such as the request that Django's lines have, would be written out later.
        found = {name: _plain(value) for name, value in super().process_log_record(log_data).items()}
        cleaned: dict[str, Any] = without_credentials(found)
        return cleaned


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | dict | list) else str(value)
