"""A thread beside the event loop that posts this process's counts once a second."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable

import msgspec

from proxy.journal.writer import JournalWriter
from proxy.metrics.counters import Counters
from proxy.metrics.store import Ended, PoolUse, Store, WorkerReport
from proxy.targets.sharing import Sharing
from proxy.tracing.trace import Tracing
from proxy.upstreams import Upstreams
from routing.live import TableKeeper

logger = logging.getLogger(__name__)

POST_SECONDS = 1.0
MERGE_TICKS = 60


class Posting:
    def __init__(
        self,
        store: Store,
        counters: Counters,
        keeper: TableKeeper,
        upstreams: Upstreams,
        journal: JournalWriter,
        sharing: Sharing,
        tracing: Tracing | None = None,
    ) -> None:
        self.store = store
        self.problem = ""
        self._counters = counters
        self._keeper = keeper
        self._upstreams = upstreams
        self._journal = journal
        self._sharing = sharing
        self._tracing = tracing
        self._worker = uuid.uuid4().hex
        self._started_at = time.time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Post what was counted until now, for good."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)

    def report(self) -> WorkerReport:
        return WorkerReport(
            worker=self._worker,
            pid=os.getpid(),
            started_at=self._started_at,
            at=time.time(),
            families=self._counters.copy(),
            table_version=self._keeper.table.version,
            table_age=round(self._keeper.age_seconds, 3),
            journal_lost=self._journal.lost,
            traces_dropped=self._tracing.dropped if self._tracing is not None else 0,
            pools=[
                PoolUse(link.provider.slug, link.pool.in_use, link.pool.connection.max_connections)
                for link in self._upstreams.links()
            ],
            targets=self._sharing.snapshot().targets,
        )

    def read(self) -> tuple[list[WorkerReport], Ended]:
        """All living processes, this one as it is now, and the sum of the ended ones. Raises OSError."""
        living, ended = self.store.read()
        others = [report for report in living if report.worker != self._worker]
        return [self.report(), *others], ended

    def _run(self) -> None:
        ticks = 0
        while not self._stop.is_set():
            self._safely(self._post)
            if ticks % MERGE_TICKS == 0:
                self._safely(self.store.merge_ended)
            ticks += 1
            self._stop.wait(POST_SECONDS)
        self._safely(self._post)
        self._safely(self.store.close)

    def _post(self) -> None:
        self.store.post(self.report())

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, msgspec.DecodeError) as error:
            if not self.problem:
                logger.error("metrics not posted, will try again: %s", error)
            self.problem = f"{type(error).__name__}: {error}"
        else:
            self.problem = ""
