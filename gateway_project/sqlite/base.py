"""Django's SQLite, which tells of each write that kept all others waiting for long: there is one writer."""

import logging
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from django.db.backends.sqlite3 import base
from django.db.backends.sqlite3.schema import DatabaseSchemaEditor

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 1.0
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_PLUMBING = ("django.", "contextlib", __name__)
"""Modules that stand between a transaction and whoever opened it."""


class SchemaEditor(DatabaseSchemaEditor):
    """Migrations take their time, before anything is served."""

    def __enter__(self) -> "SchemaEditor":
        entered: SchemaEditor = super().__enter__()
        self.connection._began = None  # type: ignore[attr-defined] # that of ours
        return entered


class DatabaseWrapper(base.DatabaseWrapper):
    """Every transaction writes from its beginning on: see transaction_mode in the settings."""

    SchemaEditorClass = SchemaEditor

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._began: float | None = None
        self._statements = 0
        self.execute_wrappers.append(self._measure)

    def _start_transaction_under_autocommit(self) -> None:
        super()._start_transaction_under_autocommit()  # type: ignore[misc] # the stubs know no private names
        self._began, self._statements = time.perf_counter(), 0

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc] # the stubs know no private names
        self._end()

    def _rollback(self) -> None:
        super()._rollback()  # type: ignore[misc] # the stubs know no private names
        self._end()

    def _end(self) -> None:
        began, self._began = self._began, None
        if began is not None and (seconds := time.perf_counter() - began) > LONGEST_SECONDS:
            _tell(seconds, self._statements)

    def _measure(
        self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        if self._began is not None:
            self._statements += 1
            return execute(sql, params, many, context)
        # By CPU time: a statement by itself may wait for another's lock before it holds its own.
        began = time.thread_time()
        try:
            return execute(sql, params, many, context)
        finally:
            seconds = time.thread_time() - began
            if seconds > LONGEST_SECONDS and sql.startswith(_WRITES):
                _tell(seconds, 1)


def _tell(seconds: float, statements: int) -> None:
    logger.warning(
        "a write of %d statements kept all others waiting for %.1f s: %s",
        statements,
        seconds,
        _opener(sys._getframe(1)),
    )


def _opener(frame: FrameType | None) -> str:
    """The function that opened the transaction; where that was a decorator, the one that called it."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if not module.startswith(_PLUMBING):
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "unknown"
