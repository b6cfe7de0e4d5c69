"""Sends load: wrk for rates, benchmarks/driver.py for what wrk can't measure."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.answers import SCENARIOS, Scenario
from benchmarks.driver import Plan, Report

PROJECT = Path(__file__).resolve().parent.parent
SCRIPT = Path(__file__).resolve().parent / "chat.lua"
CONNECTIONS_PER_PROBE = 8  # of a stream's connections one in so many is the driver's: it times first bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a chat completion is asked for.

    `rewrites`: the gateway writes events anew, so that their number and size are its own.
    """

    port: int
    path: str
    model: str
    scenario: str
    headers: dict[str, str] = field(default_factory=dict)
    rewrites: bool = False

    @property
    def expected(self) -> Scenario:
        return SCENARIOS[self.scenario]

    @property
    def body(self) -> bytes:
        return self.expected.ask(self.model)

    @property
    def answer_bytes(self) -> int:
        """A whole answer has at least so many."""
        return len(self.expected.answer) // (2 if self.rewrites else 1)

    def plan(self, connections: int, seconds: float, **more: Any) -> Plan:
        return Plan(
            port=self.port,
            path=self.path,
            body=self.body.decode(),
            headers=self.headers,
            connections=connections,
            seconds=seconds,
            answer_bytes=self.answer_bytes,
            events=0 if self.rewrites else self.expected.chunks,
            **more,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of wrk. Latencies run from the request to the last byte of its answer."""

    answers: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    bytes_each: float
    bad_status: int
    socket_errors: int
    timeouts: int

    def problem(self, target: Target) -> str | None:
        bad = {name: getattr(self, name) for name in ("bad_status", "socket_errors", "timeouts")}
        if any(bad.values()):
            return _listed(bad, self.answers)
        if not self.answers:
            return f"no answer within {self.seconds:.0f} s"
        if self.bytes_each < target.answer_bytes:
            size = f"{self.bytes_each:.0f} bytes on average"
            return f"answers of {size}, at least {target.answer_bytes} expected"
        return None


def problem_of(report: Report) -> str | None:
    bad = {name: getattr(report, name) for name in ("bad_status", "broken", "incomplete")}
    if any(bad.values()):
        return _listed(bad, report.whole)
    return None if report.whole else f"no answer within {report.seconds:.0f} s"


def _listed(bad: dict[str, int], good: int) -> str:
    return ", ".join(f"{name} {count}" for name, count in bad.items()) + f" beside {good} answers"


@dataclass(frozen=True, slots=True)
class Wrk:
    """At work."""

    process: subprocess.Popen[str]

    def report(self, seconds: float) -> Measured:
        """Waits so long for its end. Raises SubprocessError."""
        output, _ = self.process.communicate(timeout=seconds)
        if self.process.returncode:
            raise subprocess.CalledProcessError(self.process.returncode, self.process.args)
        return Measured(**json.loads(output.rpartition("REPORT ")[2]))


@contextmanager
def wrk(target: Target, connections: int, seconds: int, core: int) -> Iterator[Wrk]:
    """Keeps `connections` requests in flight for `seconds`; killed where the block ends before."""
    url = f"http://127.0.0.1:{target.port}{target.path}"
    options = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--timeout=30s"]
    headers = "".join(f"{name}: {value}\n" for name, value in target.headers.items())
    with tempfile.NamedTemporaryFile(prefix="switchstand-bench-") as body:
        body.write(target.body)
        body.flush()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), "wrk", *options, f"--script={SCRIPT}", url],
            env={**os.environ, "BENCH_BODY": body.name, "BENCH_HEADERS": headers},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield Wrk(process)
        finally:
            process.kill()
            process.wait()


def send(target: Target, *, connections: int, seconds: int, core: int) -> Measured:
    with wrk(target, connections, seconds, core) as at_work:
        return at_work.report(seconds + 60)


@contextmanager
def driving(plan: Plan, core: int) -> Iterator[Callable[[], Report]]:
    """The driver at work; what is yielded waits for its end and returns its report."""
    command = ["taskset", "--cpu-list", str(core), sys.executable, "-m", "benchmarks.driver"]
    driver = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin is not None
    limit = plan.ramp + plan.warm + plan.seconds + 60

    def report() -> Report:
        output, _ = driver.communicate(timeout=limit)
        if driver.returncode:
            raise subprocess.CalledProcessError(driver.returncode, command)
        return Report(**json.loads(output))

    try:
        driver.stdin.write(json.dumps(asdict(plan)))
        driver.stdin.close()
        driver.stdin = None  # else communicate() would flush it
        yield report
    finally:
        driver.kill()
        driver.wait()


def drive(plan: Plan, core: int) -> Report:
    with driving(plan, core) as report:
        return report()


def send_streams(target: Target, *, connections: int, seconds: int, core: int) -> tuple[Measured, Report]:
    """wrk and, on one of CONNECTIONS_PER_PROBE connections, the driver: it would be the limit on all."""
    probes = max(1, connections // CONNECTIONS_PER_PROBE)
    with driving(target.plan(probes, seconds, warm=0.2), core) as report:
        measured = send(target, connections=connections - probes, seconds=seconds, core=core)
        return measured, report()
