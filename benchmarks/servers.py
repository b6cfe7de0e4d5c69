"""Starts processes on a chosen core, tells when they are ready and busy, and stops them all."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.load import PROJECT, Target
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.state import read_state

TEMPLATES = Path(__file__).resolve().parent / "templates"
READY_SECONDS = 120  # LiteLLM takes 20 on a busy machine
STOP_SECONDS = 8
QUIET_SHARE, QUIET_LIMIT_SECONDS = 0.05, 30


class BenchmarkFailed(Exception):
    """The message says what went wrong; no table is printed."""


class Server:
    """One program in a session of its own, so that its children are counted and stopped with it."""

    def __init__(self, name: str, command: list[str], core: int, log: Path, env: dict[str, str] | None):
        self.name, self.log = name, log
        self.idle_bytes = 0  # resident after its last start, before any load
        self.journal: Path | None = None  # of a gateway: shipping it disturbs others that are measured
        self._command = ["taskset", "--cpu-list", str(core), *command]
        self._env = env
        self.process = self._launched()

    def _launched(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as output:
            return subprocess.Popen(
                self._command,
                cwd=PROJECT,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def restart(self, target: Target) -> float:
        """Seconds from the launch to the first whole answer. Raises BenchmarkFailed where none comes."""
        self.stop(STOP_SECONDS)
        begun = time.monotonic()
        self.process = self._launched()
        self.wait_until_ready(target)
        return time.monotonic() - begun

    def stop(self, seconds: float) -> None:
        """Asks, waits, kills; what outlived the leader of the session too."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.signal(signal.SIGKILL)
        self.process.wait()

    def wait_until_ready(self, target: Target) -> None:
        """Returns after the first whole answer. Raises BenchmarkFailed where none comes."""
        deadline = time.monotonic() + READY_SECONDS
        problem: str | None = "it was not asked yet"
        while time.monotonic() < deadline and self.process.poll() is None:
            problem = problem_with(target)
            if problem is None:
                self.idle_bytes = sum(self.memory().values())
                return
            time.sleep(0.01)
        raise BenchmarkFailed(f"{self.name} did not come up: {problem}\n{self.log_tail()}")

    def log_tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def cpu_seconds(self) -> float:
        ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in self._stats())
        return ticks / os.sysconf("SC_CLK_TCK")

    def cpu_share(self, seconds: float) -> float:
        """Of its core, over so many seconds from now."""
        before, begun = self.cpu_seconds(), time.monotonic()
        time.sleep(seconds)
        return (self.cpu_seconds() - before) / (time.monotonic() - begun)

    def memory(self) -> dict[int, int]:
        """Resident bytes by process."""
        page = os.sysconf("SC_PAGE_SIZE")
        return {process: int(fields[21]) * page for process, fields in self._stats()}

    def wait_until_quiet(self) -> float:
        """CPU seconds that it still used after the load, for example to ship its journal."""
        begun = before = self.cpu_seconds()
        deadline = time.monotonic() + QUIET_LIMIT_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.4)
            now = self.cpu_seconds()
            if now - before <= QUIET_SHARE * 0.4 and self._has_shipped():
                return now - begun
            before = now
        return before - begun

    def _has_shipped(self) -> bool:
        """Its shipper may only be resting."""
        if self.journal is None:
            return True
        return backlog_bytes(self.journal, read_state(self.journal)) == 0

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """/proc/PID/stat of every process of the session, from the field after the name on."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    yield int(entry.name), fields

    def pause(self) -> None:
        """Nothing of it runs until resume(): a shipper has a process group of its own."""
        self._signal_each(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_each(signal.SIGCONT)

    def _signal_each(self, number: signal.Signals) -> None:
        for process, _ in self._stats():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Servers:
    """All that a run started. Leaving the `with` block stops everything, whatever the reason."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.started: list[Server] = []

    def __enter__(self) -> "Servers":
        return self

    def start(self, name: str, command: list[str], core: int, env: dict[str, str] | None = None) -> Server:
        server = Server(name, command, core, self.scratch / f"{name}.log", env)
        self.started.append(server)
        return server

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave some of them behind
        for server in self.started:
            server.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for server in self.started:
            server.stop(max(0.1, deadline - time.monotonic()))


def problem_with(target: Target) -> str | None:
    """Asks once; None where the answer is a whole one, else what is wrong with it."""
    link = http.client.HTTPConnection("127.0.0.1", target.port, timeout=20)
    try:
        link.request("POST", target.path, target.body, target.headers)
        answer = link.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        link.close()
    if answer.status != 200:
        return f"status {answer.status}: {body[:500].decode(errors='replace')}"
    if len(body) < target.answer_bytes:
        return f"the answer has {len(body)} bytes instead of {target.answer_bytes}: {body[-200:]!r}"
    return None


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:  # all held at once, so that they differ
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def filled(template: str, scratch: Path, words: dict[str, object]) -> Path:
    """A copy of the template in `scratch` with every @WORD@ replaced."""
    text = (TEMPLATES / template).read_text()
    for word, value in words.items():
        text = text.replace(f"@{word}@", str(value))
    file = scratch / template
    file.write_text(text)
    return file


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]
