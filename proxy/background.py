"""Work beside the event loop: a thread that does something again and again, and files that others read."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

STOP_SECONDS = 2.0


class Repeating:
    """Does `work` at once and then every `seconds`, in a thread, until it is stopped; then `at_end` once.

    What fails with one of `errors` is tried again. Only the first time in a row is logged, as `trouble`.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        work: Callable[[], None],
        *,
        trouble: str,
        errors: tuple[type[Exception], ...] = (OSError,),
        at_end: Callable[[], None] | None = None,
    ) -> None:
        self.problem = ""  # of the last time
        self._seconds = seconds
        self._work = work
        self._trouble = trouble
        self._errors = errors
        self._at_end = at_end
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last round is over; again, it does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def note(self, problem: str) -> None:
        """ "" where there is none."""
        if problem and not self.problem:
            logger.error("%s: %s", self._trouble, problem)
        self.problem = problem

    def _run(self) -> None:
        while not self._stop.is_set():
            self._try(self._work)
            self._stop.wait(self._seconds)
        if self._at_end is not None:
            self._try(self._at_end)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except self._errors as error:
            self.note(f"{type(error).__name__}: {error}")
        else:
            self.note("")


def replace_file(path: Path, content: bytes) -> None:
    """Whoever reads it finds what was there before, or all of `content`. Raises OSError."""
    new = path.with_name(f"{path.name}.{os.getpid()}")
    new.write_bytes(content)
    new.replace(path)
