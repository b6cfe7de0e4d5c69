"""Runs the processes of `make serve` side by side and ends them in order."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """One process. Where `last`, it is told to stop when all others have ended."""

    name: str
    command: tuple[str, ...]
    last: bool = False


@dataclass(slots=True)
class _Signal:
    number: int


@dataclass(slots=True)
class _Ended:
    part: Part
    code: int


@dataclass(slots=True)
class Supervisor:
    """Each part has a session of its own: a Ctrl-C in the terminal reaches the supervisor only.

    stop_seconds: from the first signal until what still runs is killed, together with its children.
    """

    stop_seconds: float
    write: Callable[[str], object] = sys.stdout.write
    _events: "queue.SimpleQueue[_Signal | _Ended]" = field(default_factory=queue.SimpleQueue)
    _running: dict[Part, "subprocess.Popen[str]"] = field(default_factory=dict)
    _told: set[Part] = field(default_factory=set)
    _deadline: float | None = None

    def run(self, parts: list[Part]) -> int:
        """Until all have ended; the exit code of the first that ended, or 128 + the signal's number."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A SimpleQueue may be filled from a signal handler; nothing else happens there.
            signal.signal(number, lambda number, _frame: self._events.put(_Signal(number)))
        try:
            for part in parts:
                self._start(part)
            return self._until_ended()
        finally:
            for process in self._running.values():  # none, unless a part could not be started
                _kill_group(process.pid)

    def _until_ended(self) -> int:
        code: int | None = None
        while self._running:
            event = self._next_event()
            if isinstance(event, _Ended):
                self._forget(event)
                code = event.code if code is None else code
            elif event is not None:
                code = 128 + event.number if code is None else code
            self._stop(at_once=event is None or (isinstance(event, _Signal) and self._deadline is not None))
        return code or 0

    def _start(self, part: Part) -> None:
        process = subprocess.Popen(
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self._running[part] = process
        threading.Thread(target=self._copy_output, args=(part, process), daemon=True).start()
        threading.Thread(target=self._await_end, args=(part, process), daemon=True).start()

    def _copy_output(self, part: Part, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(OSError):  # our reader is gone; a full pipe would block the part
                self.write(f"{part.name:<6} | {line}")

    def _await_end(self, part: Part, process: "subprocess.Popen[str]") -> None:
        # Not reaped yet, so that the number of its group can't be anyone else's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _kill_group(process.pid)
        self._events.put(_Ended(part, process.wait()))

    def _next_event(self) -> _Signal | _Ended | None:
        """None: the time to stop is over."""
        if self._deadline is None:
            return self._events.get()
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=max(self._deadline - time.monotonic(), 0.01))
        return None

    def _forget(self, ended: _Ended) -> None:
        del self._running[ended.part]
        if ended.part not in self._told:
            self.write(f"{ended.part.name:<6} | ended by itself with {ended.code}; all others end now\n")

    def _stop(self, *, at_once: bool) -> None:
        """Tell those whose turn it is; `at_once` kills."""
        if self._deadline is None:
            self._deadline = time.monotonic() + self.stop_seconds
        others = any(not part.last for part in self._running)
        for part, process in self._running.items():
            if at_once:
                self._told.add(part)
                _kill_group(process.pid)
            elif part not in self._told and not (part.last and others):
                self._told.add(part)
                # To the process alone: it tells its own children, and knows then why they end.
                process.send_signal(signal.SIGTERM)


def _kill_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
