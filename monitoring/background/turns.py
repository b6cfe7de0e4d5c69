"""All writers of SQLite take turns: a periodic task that can't write now does so the next time."""

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError

logger = logging.getLogger(__name__)

_TAKEN = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_locked(error: BaseException) -> bool:
    """Whether somebody else was writing for longer than one waits."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    return isinstance(error, OperationalError) and code & 0xFF in _TAKEN


@contextmanager
def left_out_where_locked(name: str) -> Iterator[None]:
    """One line for a turn that was not ours."""
    try:
        yield
    except OperationalError as error:
        if not is_locked(error):
            raise
        logger.warning("%s leaves out this turn: another one writes to the database", name)
