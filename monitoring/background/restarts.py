"""Parts that end by themselves: when each is started again, and what is told of it.

A file for each part lies in DATA_DIR/parts. Who starts a part writes it, all others read it; it is void
by itself when the part has lived for a minute, whatever became of its writer.
"""

import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FORGOTTEN_SECONDS = 60.0
LONGEST_PAUSE = 30.0

NAMES = {
    "web": "the web process",
    "background": "the background process (Celery worker and beat)",
    "shipper": "the journal's shipper",
}


class Restarts:
    """Of one part. `directory`: None tells nobody."""

    def __init__(
        self, name: str, directory: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._directory, self._clock = name, directory, clock
        self._times, self._pause, self._began = 0, 0.0, clock()

    def began(self) -> None:
        self._began = self._clock()

    def ended(self, how: str) -> tuple[float, str]:
        """(seconds to wait before the next start, what to log: "" where the last line says it all)."""
        before = self._pause if self._times else -1.0
        if self._clock() - self._began >= FORGOTTEN_SECONDS:
            self._times, before = 0, -1.0
        self._pause = min(2.0 ** (self._times - 1), LONGEST_PAUSE) if self._times else 0.0
        self._times += 1
        self._tell(
            f"{NAMES.get(self._name, self._name)} ended ({how}) and is started again{self._how_often()}"
        )
        again = f"in {self._pause:g} s" if self._pause else "at once"
        return self._pause, "" if before == self._pause else f"ended ({how}); it is started again {again}"

    def _how_often(self) -> str:
        return f", the {self._times}th time" if self._times > 3 else ""

    def _tell(self, text: str) -> None:
        if self._directory is None:
            return
        told = {"text": text, "until": time.time() + self._pause + FORGOTTEN_SECONDS}
        with suppress(OSError):  # the disk is full: the part is started again all the same
            self._directory.mkdir(exist_ok=True)
            new = self._directory / f"{self._name}.new"
            new.write_text(json.dumps(told))
            new.replace(self._directory / f"{self._name}.json")


def how_it_ended(code: int) -> str:
    """From a process's return code, as subprocess gives it."""
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def restarted(directory: Path, now: float) -> dict[str, str]:
    """part -> a sentence, of those that ended and have not lived for a minute since. `now`: Unix seconds."""
    found = {}
    for path in sorted(directory.glob("*.json")):
        with suppress(OSError, ValueError, KeyError):
            told = json.loads(path.read_bytes())
            if told["until"] - FORGOTTEN_SECONDS - LONGEST_PAUSE <= now < told["until"]:
                found[path.stem] = str(told["text"])
    return found


def forget_restarts(directory: Path | None) -> None:
    """At a start: what an earlier one told is over."""
    for path in directory.glob("*.json") if directory is not None else ():
        path.unlink(missing_ok=True)
