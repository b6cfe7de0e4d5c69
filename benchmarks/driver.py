"""Load with what wrk can't do: times to the first byte, staggered starts, a whole answer per connection.

`python -m benchmarks.driver < PLAN`: one JSON object in, one out (Plan and Report). llhttp parses, so
that the driver is never what is measured; a run on direct shows how far it goes.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import httptools
import uvloop

END = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`seconds` are measured after `warm`; connections start one by one within `ramp` seconds.

    `once`: each connection asks once, and the run is over when all have their answer, or after `seconds`.
    `answer_bytes`: a whole body has at least so many. `events`: of a whole stream, 0 where it is none.
    `prompt`: whoever shares the driver's core gives way to it, where the system allows that.
    """

    port: int
    path: str
    body: str
    headers: dict[str, str]
    connections: int
    seconds: float
    answer_bytes: int
    events: int = 0
    ramp: float = 0.0
    warm: float = 0.0
    once: bool = False
    prompt: bool = False

    @property
    def request(self) -> bytes:
        body = self.body.encode()
        lines = [f"POST {self.path} HTTP/1.1", f"host: 127.0.0.1:{self.port}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body


@dataclass(slots=True)
class Report:
    """Times in milliseconds; None where nothing was answered. `whole` answers are those without a fault."""

    whole: int = 0
    seconds: float = 0.0
    bad_status: int = 0
    broken: int = 0  # connections that ended in an answer, or could not be opened
    incomplete: int = 0
    unanswered: int = 0  # requests still open at the end
    prompt: bool = False  # whether it was wanted and the system allowed it
    first_p50_ms: float | None = None
    first_p99_ms: float | None = None
    whole_p50_ms: float | None = None
    whole_p99_ms: float | None = None
    firsts: list[float] = field(default_factory=list)
    wholes: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        for name, values in (("first", sorted(self.firsts)), ("whole", sorted(self.wholes))):
            for percent in (50, 99):
                found = round(values[len(values) * percent // 100], 3) if values else None
                setattr(self, f"{name}_p{percent}_ms", found)
        self.firsts, self.wholes = [], []
        return asdict(self)


class Client(asyncio.Protocol):
    """One connection: sends, reads the answer to its end, sends again."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.parser = httptools.HttpResponseParser(self)
        self.open = False  # whether an answer is due
        self.first = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.load.opening -= 1  # here, not in the task that connects: the answer may come before it goes on
        self.load.clients.append(self)
        self.send()

    def send(self) -> None:
        self.size, self.first, self.open = 0, 0.0, True
        self.parts: list[bytes] = []
        self.tail = b""
        self.sent = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_body(self, data: bytes) -> None:
        if not self.first:
            self.first = time.perf_counter()
        self.size += len(data)
        self.tail = data if len(data) >= len(END) else self.tail[-len(END) :] + data
        if self.load.plan.once:
            self.parts.append(data)

    def on_message_complete(self) -> None:
        self.open = False
        again = self.load.take(self, time.perf_counter())
        if again and self.parser.should_keep_alive():
            self.send()
        else:
            self.transport.close()
            if again:
                self.load.connect()

    def connection_lost(self, error: Exception | None) -> None:
        if self.open:
            self.open = False
            self.load.lost()


class Load:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.request = plan.request
        self.report = Report()
        self.loop = asyncio.get_running_loop()
        self.clients: list[Client] = []
        self.connecting: set[asyncio.Task[None]] = set()
        self.opening = 0  # connections under way
        self.done = asyncio.Event()
        self.answered = 0
        self.ending = False

    async def run(self) -> Report:
        plan, begun = self.plan, time.perf_counter()
        for number in range(plan.connections):
            self.loop.call_later(plan.ramp * number / plan.connections, self.connect)
        self.begin = begun + plan.ramp + plan.warm
        self.end = self.begin + plan.seconds
        try:
            async with asyncio.timeout(self.end - begun):
                await self.done.wait()
        except TimeoutError:
            pass
        self.report.seconds = time.perf_counter() - self.begin
        self.ending = True
        self.report.unanswered = sum(client.open for client in self.clients) + self.opening
        for client in self.clients:
            client.open = False
            client.transport.abort()
        return self.report

    def connect(self) -> None:
        if not self.ending:
            self.opening += 1
            task = self.loop.create_task(self._connect())
            self.connecting.add(task)
            task.add_done_callback(self.connecting.discard)

    async def _connect(self) -> None:
        try:
            await self.loop.create_connection(lambda: Client(self), "127.0.0.1", self.plan.port)
        except OSError:
            self.opening -= 1
            self.lost()

    def take(self, client: Client, now: float) -> bool:
        """Counts an answer; tells whether the connection is to ask again."""
        fault = self._fault(client)
        if now >= self.begin or fault:
            self._count(client, now, fault)
        return not self._over()

    def _count(self, client: Client, now: float, fault: str) -> None:
        if fault:
            setattr(self.report, fault, getattr(self.report, fault) + 1)
        else:
            self.report.whole += 1
            self.report.firsts.append((client.first - client.sent) * 1000)
            self.report.wholes.append((now - client.sent) * 1000)

    def lost(self) -> None:
        if self.ending:
            return
        self.report.broken += 1
        if not self._over():
            self.loop.call_later(0.1, self.connect)  # not at once: who refuses must not be called in a loop

    def _over(self) -> bool:
        self.answered += 1
        if self.plan.once and self.answered >= self.plan.connections:
            self.done.set()
        return self.plan.once or self.ending

    def _fault(self, client: Client) -> str:
        if client.parser.get_status_code() != 200:
            return "bad_status"
        if client.size < self.plan.answer_bytes or (self.plan.events and not client.tail.endswith(END)):
            return "incomplete"
        if self.plan.once and self.plan.events:
            events = b"".join(client.parts).count(b"data: ")
            return "" if events == self.plan.events + 1 else "incomplete"
        return ""


async def measure(plan: Plan) -> Report:
    return await Load(plan).run()


def gets_real_time() -> bool:
    """Scheduled before all ordinary processes from now on, unless the system refuses."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    return True


def main(read: Callable[[], str]) -> None:
    plan = Plan(**json.loads(read()))
    prompt = plan.prompt and gets_real_time()
    report = uvloop.run(measure(plan))
    report.prompt = prompt
    print(json.dumps(report.summary()))


if __name__ == "__main__":
    main(sys.stdin.read)
