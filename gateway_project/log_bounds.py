"""What strangers can make the gateway write into its log: a line each time, and few a minute."""

import logging
import time
from collections.abc import Callable

STRANGERS = (
    "django.request",  # a path that is not there, a malformed request
    "django.security",  # a wrong Host, a missing CSRF token, too many fields
    "uvicorn.error",
    "asyncio",  # a connection that broke while it was written to
)
LINES_A_MINUTE = 10
MINUTE = 60.0


class BoundedLines(logging.Filter):
    """Of each logger and level: a few lines a minute, the next one says how many were left out.

    A traceback is kept only where the gateway itself failed: what a client did wrong needs none.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._minutes: dict[tuple[str, int], _Minute] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(STRANGERS):
            return True
        if record.name.startswith("django.security"):
            record.exc_info = record.exc_text = None
        minute = self._minutes.setdefault((record.name, record.levelno), _Minute())
        left_out = minute.take(self._clock())
        if left_out:
            record.msg = f"{record.getMessage()} (and {left_out:,} more lines like this)"
            record.args = ()
        return left_out is not None


class _Minute:
    def __init__(self) -> None:
        self._began = -MINUTE
        self._lines = 0
        self._left_out = 0

    def take(self, now: float) -> int | None:
        """How many were left out before this one; None where it is left out too."""
        if now - self._began >= MINUTE:
            self._began, self._lines = now, 0
        self._lines += 1
        if self._lines > LINES_A_MINUTE:
            self._left_out += 1
            return None
        left_out, self._left_out = self._left_out, 0
        return left_out
