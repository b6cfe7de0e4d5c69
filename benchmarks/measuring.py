"""Measures one cell on one subject, once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import load
from benchmarks.cells import SUBJECTS, Cell
from benchmarks.rig import Subject
from benchmarks.servers import Server, problem_with

Run = dict[str, float | None]
"""One run's figures by the names of benchmarks/table.py's columns."""

WHOLE_LIMIT_SECONDS = 60
HELD_RAMP = 2_500  # connections a second that are opened
HELD_WARM = 2.0  # seconds; all connections are under way when counting begins
SLOW_FACTOR = 4  # a run of a slow gateway takes so many times as long: it answers a few times only
SLOW_CHUNKS = 400  # a second of a slow gateway's, over all streams; a run must see some of them end


class CellFailed(Exception):
    """An answer was not a whole one: errors are quick, and their rate worth nothing."""


@dataclass(slots=True)
class Measuring:
    seconds: int
    core: int  # of the load
    at_rest: dict[str, dict[int, int]] = field(default_factory=dict)  # subject -> bytes by process

    def measure(self, cell: Cell, subject: Subject) -> Run:
        """Raises CellFailed."""
        server = subject.server_of(cell.scenario)
        before, begun = server.cpu_seconds() if server else 0.0, time.monotonic()
        run = KINDS[cell.kind](self, cell, subject)
        if server is not None:
            run.setdefault("cpu", (server.cpu_seconds() - before) / (time.monotonic() - begun))
            run["settle_cpu_seconds"] = server.wait_until_quiet()
        return run

    def _seconds(self, cell: Cell, subject: Subject) -> int:
        if not subject.slow:
            return self.seconds
        return max(self.seconds * SLOW_FACTOR, cell.load.chunks * cell.connections // SLOW_CHUNKS)

    def _json(self, cell: Cell, subject: Subject) -> Run:
        target = subject.targets[cell.scenario]
        seconds = self._seconds(cell, subject)
        measured = load.send(target, connections=cell.connections, seconds=seconds, core=self.core)
        self._check(measured.problem(target), cell, subject)
        return {"rate": measured.rps, "p50_ms": measured.p50_ms, "p99_ms": measured.p99_ms}

    def _body(self, cell: Cell, subject: Subject) -> Run:
        run = self._json(cell, subject)
        assert run["rate"] is not None
        target = subject.targets[cell.scenario]
        return run | {"mb": run["rate"] * (len(target.body) + len(target.expected.answer)) / 1e6}

    def _stream(self, cell: Cell, subject: Subject) -> Run:
        target = subject.targets[cell.scenario]
        measured, report = load.send_streams(
            target, connections=cell.connections, seconds=self._seconds(cell, subject), core=self.core
        )
        problem = measured.problem(target) or load.problem_of(report)
        self._check(problem, cell, subject)
        rate = measured.rps + report.whole / report.seconds
        first = {"ttft_p50_ms": report.first_p50_ms, "ttft_p99_ms": report.first_p99_ms}
        return {"rate": rate, "chunks": rate * cell.load.chunks, **first}

    def _ttft(self, cell: Cell, subject: Subject) -> Run:
        """The provider shares the driver's core and writes on behind a first byte; that must not be timed."""
        plan = subject.targets[cell.scenario].plan(1, self._seconds(cell, subject), warm=0.2, prompt=True)
        report = load.drive(plan, self.core)
        self._check(load.problem_of(report), cell, subject)
        first = {"ttft_p50_ms": report.first_p50_ms, "ttft_p99_ms": report.first_p99_ms}
        whole = {"p50_ms": report.whole_p50_ms, "p99_ms": report.whole_p99_ms}
        return {**first, **whole, "prompt": float(report.prompt)}

    def _whole(self, cell: Cell, subject: Subject) -> Run:
        """One stream on each connection, all at a time; each event of each is counted."""
        target = subject.targets[cell.scenario]
        plan = target.plan(cell.connections, WHOLE_LIMIT_SECONDS, once=True)
        report = load.drive(plan, self.core)
        chunks = report.whole * cell.load.chunks / report.seconds
        return {
            "whole": report.whole,
            "not_whole": cell.connections - report.whole,
            "seconds": report.seconds,
            "chunks": chunks,
        }

    def _held(self, cell: Cell, subject: Subject) -> Run:
        """The ideal: each connection's next request follows at once on its answer after `delay`."""
        target, server = subject.targets[cell.scenario], subject.server_of(cell.scenario)
        seconds, ramp = self._seconds(cell, subject), cell.connections / HELD_RAMP
        plan = target.plan(cell.connections, seconds, ramp=ramp, warm=HELD_WARM)
        before = self._at_rest(subject, server)
        with load.driving(plan, self.core) as report:
            time.sleep(ramp + HELD_WARM + plan.seconds / 2)
            grown = _growth(before, server.memory()) if server else None
            cpu = server.cpu_share(plan.seconds / 4) if server else None
            found = report()
        rate = found.whole / found.seconds
        errors = found.bad_status + found.broken + found.incomplete
        return {
            "rate": rate,
            "of_ideal": rate * cell.load.delay / cell.connections,
            "errors": errors,
            "p50_ms": found.whole_p50_ms,
            "p99_ms": found.whole_p99_ms,
            "kb_each": None if grown is None else grown / 1000 / cell.connections,
            **({} if cpu is None else {"cpu": cpu}),
        }

    def _at_rest(self, subject: Subject, server: Server | None) -> dict[int, int]:
        """Taken once: what an earlier cell made a process keep is no free memory of this one."""
        if server is None:
            return {}
        return self.at_rest.setdefault(subject.name, server.memory())

    def _start(self, cell: Cell, subject: Subject) -> Run:
        server, target = subject.server_of(cell.scenario), subject.targets[cell.scenario]
        assert server is not None
        return {"seconds": server.restart(target), "cpu": None}

    def _memory(self, cell: Cell, subject: Subject) -> Run:
        server = subject.server_of(cell.scenario)
        assert server is not None
        processes = server.memory()
        total, largest = sum(processes.values()), max(processes.values())
        return {
            "idle_mb": server.idle_bytes / 1e6,
            "mb": total / 1e6,
            "largest_mb": largest / 1e6,
            "processes": len(processes),
        }

    def _check(self, problem: str | None, cell: Cell, subject: Subject) -> None:
        if problem is None:
            return
        now = problem_with(subject.targets[cell.scenario]) or "a single request gets a whole answer now"
        raise CellFailed(f"{SUBJECTS[subject.name]}, {cell.name}: {problem}; {now}")


def _growth(before: dict[int, int], after: dict[int, int]) -> int:
    """Bytes by which the process grew that grew most: the one that has the connections."""
    return max(size - before.get(process, size) for process, size in after.items())


KINDS: dict[str, Callable[[Measuring, Cell, Subject], Any]] = {
    "json": Measuring._json,
    "body": Measuring._body,
    "stream": Measuring._stream,
    "ttft": Measuring._ttft,
    "whole": Measuring._whole,
    "held": Measuring._held,
    "start": Measuring._start,
    "memory": Measuring._memory,
}
