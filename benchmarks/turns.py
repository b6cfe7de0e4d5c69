"""Rates of several subjects on one load, measured by turns of less than a second: `--turns`.

On a machine that others use too, speed changes from second to second. Here each subject has a wrk of its
own; all wrks and servers are stopped but one, and which one runs changes all the time. So what disturbs
hits all alike, and no gateway ships its journal in another one's turn.
"""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks import load
from benchmarks.cells import SUBJECTS, Cell
from benchmarks.load import Target
from benchmarks.measuring import CellFailed, Run
from benchmarks.rig import Subject
from benchmarks.servers import Server

TURN_SECONDS = 0.8
REST_SECONDS = 0.2  # after a turn: what its wrk had asked for is answered, before the next one's begins
WRK_SECONDS = 3600  # longer than all turns together: each wrk is told to end ...
END_SECONDS = 30  # ... and does so well before
KINDS = ("json", "stream")  # of cells
TOO_SLOW = ("portkey", "litellm")  # to answer what is left over within REST_SECONDS


@dataclass(slots=True)
class Taker:
    """A subject and its wrk, which is stopped but in its turns."""

    subject: Subject
    target: Target
    server: Server | None
    wrk: load.Wrk | None = None
    turns: int = 0
    active: float = 0.0  # seconds
    cpu: float = 0.0  # seconds of its server

    def turn(self, connections: int, core: int, stack: ExitStack) -> None:
        if self.server is not None:
            self.server.resume()
        cpu, begun = self._cpu_seconds(), time.monotonic()
        if self.wrk is None:
            self.wrk = stack.enter_context(load.wrk(self.target, connections, WRK_SECONDS, core))
        else:
            self.wrk.process.send_signal(signal.SIGCONT)
        time.sleep(TURN_SECONDS)
        self.wrk.process.send_signal(signal.SIGSTOP)
        self.active += time.monotonic() - begun
        time.sleep(REST_SECONDS)
        self.cpu += self._cpu_seconds() - cpu
        self.turns += 1
        if self.server is not None:
            self.server.pause()

    def _cpu_seconds(self) -> float:
        return self.server.cpu_seconds() if self.server else 0.0

    def run(self, connections: int, cell: Cell) -> Run:
        """Raises CellFailed."""
        assert self.wrk is not None
        self.wrk.process.send_signal(signal.SIGINT)
        self.wrk.process.send_signal(signal.SIGCONT)
        # Either thread of a process that was stopped may have got the signal; the first one ends it.
        time.sleep(REST_SECONDS)
        self.wrk.process.send_signal(signal.SIGINT)
        measured = self.wrk.report(END_SECONDS)
        if problem := measured.problem(self.target):
            raise CellFailed(f"{SUBJECTS[self.subject.name]}, {cell.name}: {problem}")
        # In each rest as many were answered as there are connections, and counted in the next turn.
        answers = measured.answers - connections * (self.turns - 1)
        run: Run = {"rate": answers / self.active, "chunks": answers * cell.load.chunks / self.active}
        return run | ({"cpu": self.cpu / self.active} if self.server else {})


def take(cell: Cell, subjects: Sequence[Subject], seconds: int, core: int) -> dict[str, Run | CellFailed]:
    """By the subjects' names; each is active for about `seconds`."""
    takers = [
        Taker(subject, subject.targets[cell.scenario], subject.server_of(cell.scenario))
        for subject in subjects
    ]
    rounds = max(2, round(seconds / TURN_SECONDS))
    found: dict[str, Run | CellFailed] = {}
    servers = [taker.server for taker in takers if taker.server is not None]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.resume)
            server.pause()
        for number in range(rounds):
            # To and fro: none always follows the same other one.
            for taker in takers if number % 2 == 0 else takers[::-1]:
                taker.turn(cell.connections, core, stack)
        # Servers stay paused: a wrk that comes to its end must get no more answers.
        for taker in takers:
            try:
                found[taker.subject.name] = taker.run(cell.connections, cell)
            except CellFailed as failure:
                found[taker.subject.name] = failure
    for server in servers:
        server.wait_until_quiet()
    return found
