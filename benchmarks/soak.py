"""A long run on one process: does its memory grow?"""

import sys
from dataclasses import dataclass

from benchmarks import load
from benchmarks.rig import Rig, Subject
from benchmarks.servers import BenchmarkFailed, Server

SETTLED = 100_000  # requests after which all pools and buffers have the size that they keep
SLICE_SECONDS = 5
JSON_CONNECTIONS, STREAM_CONNECTIONS = 64, 32
STREAMS_EVERY = 5  # one slice in so many is of streams


@dataclass(frozen=True, slots=True)
class Look:
    """Resident bytes after so many requests: of the web process, which serves them, and of its shipper."""

    requests: int
    web: int
    shipper: int

    @classmethod
    def at(cls, requests: int, server: Server) -> "Look":
        server.wait_until_quiet()
        memory = server.memory()
        web = memory.pop(server.process.pid)
        return cls(requests, web, sum(memory.values()))

    def line(self, first: "Look") -> str:
        web, shipper = _size(self.web, first.web), _size(self.shipper, first.shipper)
        return f"{self.requests:>12,} requests  web process {web}  shipper {shipper}"


def _size(now: int, at_first: int) -> str:
    return f"{now / 1e6:6.1f} MB ({now / at_first - 1:+.1%})"


def run(rig: Rig, requests: int) -> str:
    """Sends so many requests, one slice in STREAMS_EVERY of them streams, and tells what memory did."""
    [subject] = rig.build(["limits"])
    assert subject.quick is not None
    looks, sent, number = [], 0, 0
    while sent < requests:
        number += 1
        sent += _slice(rig, subject, streams=number % STREAMS_EVERY == 0)
        if sent >= min(SETTLED, requests) and (not looks or sent - looks[-1].requests >= SETTLED):
            looks.append(Look.at(sent, subject.quick))
            print(looks[-1].line(looks[0]), file=sys.stderr)
    last = Look.at(sent, subject.quick)
    title = "Memory, fast lane with limits; growth since the first look:"
    return "\n".join([title, *(look.line(looks[0]) for look in [*looks, last])])


def _slice(rig: Rig, subject: Subject, *, streams: bool) -> int:
    target = subject.targets["s32" if streams else "json"]
    connections = STREAM_CONNECTIONS if streams else JSON_CONNECTIONS
    measured = load.send(target, connections=connections, seconds=SLICE_SECONDS, core=rig.load_core)
    if problem := measured.problem(target):
        raise BenchmarkFailed(problem)
    return measured.answers
