"""Whether the books stay exact and streams go on while parts are killed: `python -m benchmarks.kill_parts`.

`make serve` under a steady load of requests and long streams, with busy loops beside it; one part after the
other is killed with -9. At the end each request that the provider saw must be one row, and each row one that
it saw, or one of which nobody can know. Exit status 1 where something is wrong.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import django
import httpx

from tests import environment  # noqa: F401 sets what Django and the gateway need

django.setup()

from tests.live import ask, until  # noqa: E402
from tests.served import Served  # noqa: E402
from tests.upstream import Answer, FakeUpstream, events  # noqa: E402

KEY = "sk-kill-parts-0123456789-abcdefghij"
PARTS = {"web": "gateway_project.web", "shipper": "ship_journal", "background": "gateway_project.background"}
ROWS = """
SELECT outcome, count(*) FROM monitoring_requestlog WHERE attempts > 0 OR outcome = 'unknown' GROUP BY outcome
"""
MOST_OPEN = 50  # requests at the same time, beside the streams
STREAMS = 4
STREAM_EVENTS, STREAM_GAP = 40, 0.25
CONFIG = """
model_list:
  - model_name: gpt
    litellm_params: {{model: p1/m, api_base: "{url}", api_key: sk-upstream}}
  - model_name: long
    litellm_params: {{model: p2/m, api_base: "{stream_url}", api_key: sk-upstream}}
router_settings: {{num_retries: 0}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True, slots=True)
class Kill:
    part: str
    at: float  # monotonic seconds
    seconds: float  # until it answers again, or gives its next sign of life

    def line(self) -> str:
        return f"{self.part:>10}: back after {self.seconds:5.2f} s"


@dataclass
class Result:
    kills: list[Kill] = field(default_factory=list)
    answered: int = 0
    failed: int = 0  # while web was away: refused connections, and calls that were open
    left_out: int = 0  # not sent, as so many were open
    streams: int = 0
    broken_streams: list[float] = field(default_factory=list)  # when, in monotonic seconds
    rows: Counter[str] = field(default_factory=Counter)  # by outcome
    seen: int = 0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        yield from (kill.line() for kill in self.kills)
        yield f"{self.answered:,} answers, {self.failed:,} failures, {self.left_out:,} not sent"
        yield f"{self.streams:,} whole streams"
        yield f"{len(self.broken_streams)} streams refused or broken while web was away"
        yield f"the provider saw {self.seen:,} requests; rows: {dict(self.rows)}"
        yield from (f"WRONG: {problem}" for problem in self.problems)


class Load(threading.Thread):
    """A steady rate of requests and some long streams, each with an id of its own; until told to stop."""

    def __init__(self, url: str, rate: float, result: Result) -> None:
        super().__init__(daemon=True)
        self._url, self._rate, self._result = url, rate, result
        self._over = threading.Event()
        self._number = self._open = 0

    def run(self) -> None:
        asyncio.run(self._run())

    def stop(self) -> None:
        self._over.set()
        self.join(60)
        if self.is_alive():
            self._result.problems.append("the load did not end: what it measured is nothing")

    async def _run(self) -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        async with (
            httpx.AsyncClient(headers=headers, timeout=30, verify=False) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for _ in range(STREAMS):
                tasks.create_task(self._streams(client))
            begun, sent = time.monotonic(), 0
            while not self._over.is_set():
                while sent < (time.monotonic() - begun) * self._rate:
                    sent += 1
                    # httpx's pool is quadratic in what waits for it: a backlog would be all that is measured.
                    if self._open < MOST_OPEN:
                        tasks.create_task(self._one(client))
                    else:
                        self._result.left_out += 1
                await asyncio.sleep(0.005)

    async def _one(self, client: httpx.AsyncClient) -> None:
        self._open += 1
        try:
            answer = await client.post(f"{self._url}/v1/chat/completions", content=self._body("gpt"))
        except httpx.TransportError:
            self._result.failed += 1
            return
        finally:
            self._open -= 1
        if answer.is_success:
            self._result.answered += 1
        else:
            self._result.problems.append(f"{answer.status_code}: {answer.text[:200]}")

    async def _streams(self, client: httpx.AsyncClient) -> None:
        while not self._over.is_set():
            try:
                await self._stream(client)
            except httpx.TransportError:
                self._result.broken_streams.append(time.monotonic())
                await asyncio.sleep(0.5)

    async def _stream(self, client: httpx.AsyncClient) -> None:
        content, last = self._body("long", stream=True), ""
        async with client.stream("POST", f"{self._url}/v1/chat/completions", content=content) as answer:
            async for line in answer.aiter_lines():
                last = line or last
        if last == "data: [DONE]":
            self._result.streams += 1
        else:
            self._result.broken_streams.append(time.monotonic())

    def _body(self, model: str, **body: object) -> bytes:
        self._number += 1
        return ask(model, messages=[{"role": "user", "content": f"call-{self._number}"}], **body)


class Killer:
    def __init__(self, served: Served) -> None:
        self._served = served
        self._back: dict[str, Callable[[float], object]] = {
            "web": self._answers,
            "shipper": self._ships,
            "background": self._works,
        }

    def number_of(self, part: str) -> int:
        time.sleep(0.1)  # reading all processes' environments is work
        found = [number for number, line in self._served.processes().items() if PARTS[part] in line]
        return found[0] if found else 0

    def kill(self, part: str) -> Kill:
        number, at, wall = self.number_of(part), time.monotonic(), time.time()
        os.kill(number, signal.SIGKILL)
        until(lambda: self.number_of(part) not in (0, number), f"another {part} runs", 60)
        until(lambda: self._back[part](wall), f"{part} is back\n{self._served.output[-3000:]}", 120)
        return Kill(part, at, time.monotonic() - at)

    def _answers(self, wall: float) -> bool:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        with contextlib.suppress(httpx.TransportError):
            url = f"{self._served.url}/v1/models"
            return httpx.get(url, headers=headers, verify=False, timeout=5).is_success
        return False

    def _ships(self, wall: float) -> bool:
        return _changed(self._served.data_dir / "journal" / "shipper.json") > wall

    def _works(self, wall: float) -> bool:
        """It has begun its quickest task."""
        locks = (self._served.data_dir / "locks").glob("task*probe_providers*")
        return any(_changed(lock) > wall + 0.5 for lock in locks)


def _changed(file: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def run(directory: Path, *, kills: int, pause: float, rate: float) -> Result:
    """`pause`: seconds from one kill to the next."""
    upstream, result = FakeUpstream(), Result()
    chunks = events(*["word "] * STREAM_EVENTS)
    upstream.always("p1", Answer())
    upstream.always("p2", Answer(chunks=chunks, gap=STREAM_GAP))
    config = directory / "litellm_config.yaml"
    config.write_text(CONFIG.format(url=upstream.url("p1"), stream_url=upstream.url("p2"), key=KEY))
    served = Served(directory / "data", LITELLM_CONFIG=str(config)).start()
    try:
        killer = Killer(served)
        for part in PARTS:
            until(lambda part=part: killer.number_of(part), f"{part} runs", 60)
        load = Load(served.url, rate, result)
        load.start()
        for number in range(kills):
            time.sleep(max(pause - result.kills[-1].seconds, 2) if result.kills else 5)
            result.kills.append(killer.kill([*PARTS][number % len(PARTS)]))
            print(result.kills[-1].line(), file=sys.stderr)
        time.sleep(min(pause, 5))
        load.stop()
        _compare(served, upstream, result)
    finally:
        served.kill()
        upstream.close()
    return result


def _compare(served: Served, upstream: FakeUpstream, result: Result) -> None:
    """The provider's calls, the rows, the audit and the log."""
    result.seen = sum(len(upstream.calls(name)) for name in ("p1", "p2"))
    database = served.data_dir / "switchstand.sqlite3"
    until(
        lambda: sum(_rows(database).values()) >= result.seen, lambda: f"{_rows(database)} {result.seen}", 120
    )
    time.sleep(6)  # what the journal of a dead process left comes at most so much later
    result.rows = _rows(database)
    unknown = result.rows["unknown"]
    # A call may be killed between its record and its request: a row whose request nobody saw.
    if not result.seen <= sum(result.rows.values()) <= result.seen + unknown:
        result.problems.append(f"{sum(result.rows.values())} rows, of {result.seen} calls of the provider")
    web = [kill.at for kill in result.kills if kill.part == "web"]
    for moment in result.broken_streams:
        if not any(0 <= moment - at < 30 for at in web):
            result.problems.append("a stream ended that no kill of web ended")
    audit = subprocess.run(
        [sys.executable, "manage.py", "audit_books"],
        env=served.env,
        capture_output=True,
        text=True,
        check=False,
    )
    if audit.returncode:
        result.problems.append(f"the audit found: {audit.stdout[-2000:]}{audit.stderr[-2000:]}")
    said = len(re.findall(r"ended \(killed by SIGKILL\); it is started again", served.output))
    if said != len(result.kills):
        result.problems.append(f"{len(result.kills)} kills, {said} lines in the log\n{served.output[-3000:]}")


def _rows(database: Path) -> Counter[str]:
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as link:
        return Counter(dict(link.execute(ROWS).fetchall()))


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    code = "import os; os.nice(10)\nwhile os.getppid() == PARENT: sum(range(1000))"
    loops = [
        subprocess.Popen([sys.executable, "-c", code.replace("PARENT", str(os.getpid()))])
        for _ in range(count)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_parts", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, help="one kill in each")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--busy-loops", type=int, default=4, help="processes at nice 10 beside it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-parts-") as directory, busy_loops(options.busy_loops):
        result = run(Path(directory), kills=options.minutes, pause=60, rate=options.rate)
    print("\n".join(result.lines()))
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
