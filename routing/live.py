"""Keeps one worker's routing table up to date, off the request path."""

import logging
import threading
import time

from django.db import close_old_connections, connection

from routing.compiler import compile_table, current_version
from routing.table import EMPTY_TABLE, Fault, RoutingTable

logger = logging.getLogger(__name__)

MOST_NAMED = 5  # rows that can't be read, in a notice
POLL_SECONDS = 0.4  # an edit is live within a second, compiling included


class TableKeeper:
    """Polls the version row in a thread and swaps `table` by one assignment.

    Whatever fails, the last good table keeps serving; `problem` says why it is not newer.
    """

    def __init__(self) -> None:
        self.table: RoutingTable = EMPTY_TABLE
        self.problem = ""
        self._told: frozenset[Fault] = frozenset()
        self.checked_at = 0.0  # monotonic seconds of the last look that worked
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="routing-table", daemon=True)

    @property
    def ready(self) -> bool:
        return self.table is not EMPTY_TABLE

    @property
    def age_seconds(self) -> float:
        """Since the table was last known to be the newest; 0 before the first look."""
        return time.monotonic() - self.checked_at if self.checked_at else 0.0

    def start(self) -> None:
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def refresh(self) -> None:
        """Compile if the version moved. Any failure is kept in `problem` and logged once."""
        try:
            stale = time.time() >= self.table.valid_until
            if not self.ready or stale or current_version() != self.table.version:
                self.table = compile_table()
                self._tell_faults()
                logger.debug("routing table %d serves %d routes", self.table.version, len(self.table.routes))
            self.checked_at = time.monotonic()
            self._note("")
        except Exception as error:  # noqa: BLE001 a worker without a newer table still serves
            connection.close()
            self._note(f"{type(error).__name__}: {error}")

    def faults_notice(self) -> str:
        """For admins; "" where all rows could be compiled."""
        faults = self.table.faults
        if not faults:
            return ""
        more = f" And {len(faults) - MOST_NAMED} more." if len(faults) > MOST_NAMED else ""
        return f"Not served, all else is: {'; '.join(map(str, faults[:MOST_NAMED]))}{more}"

    def _tell_faults(self) -> None:
        faults = frozenset(self.table.faults)
        for fault in faults - self._told:
            logger.error("not served: %s", fault)
        if self._told and not faults:
            logger.info("all rows of the configuration can be read again")
        self._told = faults

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            if problem:
                logger.error("routing table not refreshed, keeping %d: %s", self.table.version, problem)
            else:
                logger.info("routing table is refreshed again")
        self.problem = problem

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            close_old_connections()
            self.refresh()
        connection.close()
