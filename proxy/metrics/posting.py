"""A thread beside the event loop that posts this process's counts once a second."""

import os
import time
import uuid

import msgspec

from proxy.background import Repeating
from proxy.breaker.sharing import Sharing
from proxy.calls.trace import Tracing
from proxy.journal.writer import JournalWriter
from proxy.metrics.counters import Counters
from proxy.metrics.store import Ended, PoolUse, Store, WorkerReport
from proxy.upstreams.pool import Upstreams
from routing.live import TableKeeper

POST_SECONDS = 1.0
MERGE_POSTS = 60


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
        self._counters = counters
        self._keeper = keeper
        self._upstreams = upstreams
        self._journal = journal
        self._sharing = sharing
        self._tracing = tracing
        self._worker = uuid.uuid4().hex
        self._started_at = time.time()
        self._posts = 0
        self._thread = Repeating(
            "metrics",
            POST_SECONDS,
            self._look,
            trouble="metrics not posted, will try again",
            errors=(OSError, msgspec.DecodeError),
            at_end=self._post_last,
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Post what was counted until now, for good."""
        self._thread.stop()

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

    def _look(self) -> None:
        self._post()
        if self._posts % MERGE_POSTS == 0:
            self.store.merge_ended()
        self._posts += 1

    def _post(self) -> None:
        self.store.post(self.report())

    def _post_last(self) -> None:
        try:
            self._post()
        finally:
            self.store.close()
