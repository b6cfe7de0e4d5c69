"""Runs the parts of `make serve` side by side, starts those again that end, and ends them all in order."""

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
from pathlib import Path

from monitoring.background.restarts import Restarts, forget_restarts, how_it_ended


@dataclass(frozen=True, slots=True)
class Part:
    """One process; its standard input ends when the supervisor does. `vital`: all end if it never serves."""

    name: str
    command: tuple[str, ...]
    vital: bool = False


@dataclass(frozen=True, slots=True)
class _Signal:
    number: int


@dataclass(frozen=True, slots=True)
class _Ended:
    part: Part
    code: int
    last_line: str


@dataclass(slots=True)
class Supervisor:
    """Each part has a session of its own: a Ctrl-C in the terminal reaches the supervisor only.

    stop_seconds: from the first signal until what still runs is killed, together with its children.
    """

    stop_seconds: float
    write: Callable[[str], object] = sys.stdout.write
    parts_dir: Path | None = None  # where other processes read which part was started again
    _events: "queue.SimpleQueue[_Signal | _Ended]" = field(default_factory=queue.SimpleQueue)
    _running: dict[Part, "subprocess.Popen[str]"] = field(default_factory=dict)
    _restarts: dict[Part, Restarts] = field(default_factory=dict)
    _due: dict[Part, float] = field(default_factory=dict)  # parts to start, and when (monotonic seconds)
    _told: set[Part] = field(default_factory=set)
    _deadline: float | None = None
    _code: int | None = None
    _served: bool = False

    def note_served(self) -> None:
        """The vital parts have answered: from now on they are started again like all others."""
        self._served = True

    def run(self, parts: list[Part]) -> int:
        """Until all have ended: 128 + the signal's number, or the code of a vital part that never served."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # A SimpleQueue may be filled from a signal handler; nothing else happens there.
            signal.signal(number, lambda number, _frame: self._events.put(_Signal(number)))
        forget_restarts(self.parts_dir)
        self._restarts = {part: Restarts(part.name, self.parts_dir) for part in parts}
        self._due = dict.fromkeys(parts, 0.0)
        while self._running or self._due:
            self._start_due()
            self._handle(self._next_event())
        return self._code or 0

    def _handle(self, event: _Signal | _Ended | None) -> None:
        if isinstance(event, _Signal):
            self._stop(128 + event.number, at_once=self._deadline is not None)
        elif isinstance(event, _Ended):
            del self._running[event.part]
            if self._deadline is None:
                self._start_again(event)
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self._stop(1, at_once=True)

    def _next_event(self) -> _Signal | _Ended | None:
        """None: something is due."""
        moments = [*self._due.values(), *([self._deadline] if self._deadline is not None else [])]
        with contextlib.suppress(queue.Empty):
            wait = max(min(moments) - time.monotonic(), 0.01) if moments else None
            return self._events.get(timeout=wait)
        return None

    def _start_due(self) -> None:
        now = time.monotonic()
        for part in [part for part, moment in self._due.items() if moment <= now]:
            del self._due[part]
            self._start(part)

    def _start(self, part: Part) -> None:
        self._restarts[part].began()
        try:
            process = _popen(part.command)
        except OSError as error:  # too many processes, or no memory: once it may be over
            return self._start_again(_Ended(part, 127, str(error)))
        self._running[part] = process
        threading.Thread(target=self._follow, args=(part, process), daemon=True).start()
        return None

    def _start_again(self, ended: _Ended) -> None:
        part, how = ended.part, how_it_ended(ended.code)
        if part.vital and not self._served:
            self._say(part, f"can't start ({how}): {ended.last_line or 'it said nothing'}")
            self._stop(ended.code if ended.code > 0 else 1)
            return
        pause, line = self._restarts[part].ended(how)
        self._due[part] = time.monotonic() + pause
        if line:
            self._say(part, line)

    def _follow(self, part: Part, process: "subprocess.Popen[str]") -> None:
        copying = _Copying(process, lambda line: self._say(part, line))
        copying.start()
        # Not reaped yet, so that the number of its group can't be anyone else's.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        _kill_group(process.pid)
        copying.join(1)  # a process that it started may hold the pipe for longer
        self._events.put(_Ended(part, process.wait(), copying.last_line))

    def _say(self, part: Part, line: str) -> None:
        with contextlib.suppress(OSError):  # our reader is gone; a full pipe would block the part
            self.write(f"{part.name:<10} | {line}\n")

    def _stop(self, code: int, *, at_once: bool = False) -> None:
        """Tell all that have not been told; `at_once` kills."""
        self._due.clear()
        self._code = code if self._code is None else self._code
        if self._deadline is None:
            self._deadline = time.monotonic() + self.stop_seconds
        for part, process in self._running.items():
            if at_once:
                _kill_group(process.pid)
            elif part not in self._told:
                self._told.add(part)
                # To the process alone: it tells its own children, and knows then why they end.
                process.send_signal(signal.SIGTERM)


class _Copying(threading.Thread):
    """Hands on what a process says, line by line."""

    def __init__(self, process: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
        super().__init__(daemon=True)
        self.last_line = ""
        self._process, self._say = process, say

    def run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.last_line = line.strip() or self.last_line
            self._say(line.rstrip("\n"))


def _popen(command: tuple[str, ...]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _kill_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)
