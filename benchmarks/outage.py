"""What requests notice of a database that is gone: `python -m benchmarks.outage postgres|sqlite`.

A steady load before, during and after: Postgres is stopped and started again, SQLite is locked by another
process's exclusive transaction. Prints the latencies of the three times, and whether each request is a row.
"""

import argparse
import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg

from tests import environment  # sets what Django and the gateway need
from tests.live import LiveGateway, ask, until
from tests.services import PostgresServer, scratch
from tests.upstream import Answer, FakeUpstream

KEY = "sk-outage-0123456789"
RATE = 40  # requests a second: the rest of the machine must stay idle, or the queue is measured
SHIPPED_WITHIN = 60.0  # seconds after the end
CONFIG = """
model_list:
  - model_name: gpt
    litellm_params: {{model: p1/m, api_base: "{url}", api_key: sk-upstream}}
"""


@dataclass
class Measured:
    """Milliseconds of each answer by when its request began; failures are what was not 200."""

    times: dict[str, list[float]] = field(default_factory=lambda: {"before": [], "during": [], "after": []})
    failures: list[str] = field(default_factory=list)
    rows: int = 0

    @property
    def requests(self) -> int:
        return sum(map(len, self.times.values())) + len(self.failures)

    def lines(self) -> Iterator[str]:
        for phase, times in self.times.items():
            p50, p99 = _percentile(times, 0.5), _percentile(times, 0.99)
            yield f"{phase:>7}: {len(times):6,} answers, p50 {p50:6.1f} ms, p99 {p99:6.1f} ms"
        yield f"{len(self.failures)} of {self.requests:,} requests failed; {self.rows:,} rows"


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(int(share * len(times)), len(times) - 1)] if times else 0.0


class Database:
    """`gone()` is a context in which the gateway can't write to it; `rows` counts the request log."""

    def __init__(self, url: str, gone: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.url, self.gone = url, gone

    def rows(self) -> int:
        if self.url.startswith("sqlite"):
            with contextlib.closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as link:
                found: int = link.execute("SELECT count(*) FROM monitoring_requestlog").fetchone()[0]
                return found
        with psycopg.connect(self.url) as link:
            row = link.execute("SELECT count(*) FROM monitoring_requestlog").fetchone()
            return int(row[0]) if row else 0


@contextlib.contextmanager
def postgres() -> Iterator[Database]:
    with scratch("outage") as directory:
        server = PostgresServer(directory).start()

        @contextlib.contextmanager
        def gone() -> Iterator[None]:
            server.stop()
            try:
                yield
            finally:
                server.start()

        try:
            yield Database(server.create_database("outage"), gone)
        finally:
            server.stop()


@contextlib.contextmanager
def sqlite() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="outage-") as directory:
        path = Path(directory) / "outage.sqlite3"

        @contextlib.contextmanager
        def gone() -> Iterator[None]:
            with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as link:
                link.execute("BEGIN EXCLUSIVE")
                yield
                link.execute("ROLLBACK")

        yield Database(f"sqlite:///{path}", gone)


KINDS = {"postgres": postgres, "sqlite": sqlite}


def measure(database: Database, directory: Path, *, calm: float, outage: float, rate: int = RATE) -> Measured:
    """Seconds of calm, of the outage, and of calm again; then waits for all rows."""
    upstream = FakeUpstream()
    gateway = LiveGateway(directory, {"DATABASE_URL": database.url})
    try:
        upstream.always("p1", Answer(delay=0.02))
        _prepare(gateway, upstream.url("p1"))
        found = asyncio.run(_run(gateway.url, database, calm, outage, rate))
        with contextlib.suppress(AssertionError):  # the count says what is missing
            until(lambda: database.rows() >= found.requests, "all rows", SHIPPED_WITHIN)
        found.rows = database.rows()
        return found
    finally:
        gateway.stop()
        upstream.close()


def _prepare(gateway: LiveGateway, url: str) -> None:
    gateway.manage("migrate", "-v0")
    config = gateway.data_dir / "config.yaml"
    config.write_text(CONFIG.format(url=url))
    gateway.manage("load_config", str(config))
    gateway.manage("create_key", "app", "--key", KEY)
    gateway.start()


async def _run(url: str, database: Database, calm: float, outage: float, rate: int) -> Measured:
    found, phase, stop = Measured(), ["warm-up"], asyncio.Event()
    load = asyncio.create_task(_load(url, found, phase, stop, rate))
    await asyncio.sleep(2)
    phase[0] = "before"
    await asyncio.sleep(calm)
    # In one thread: SQLite's connections stay with theirs.
    began = asyncio.Event()
    away = asyncio.create_task(
        asyncio.to_thread(_keep_away, database.gone(), asyncio.get_running_loop(), began, outage)
    )
    await began.wait()
    phase[0] = "during"
    await away
    phase[0] = "after"
    await asyncio.sleep(calm)
    stop.set()
    await load
    return found


def _keep_away(
    gone: contextlib.AbstractContextManager[None],
    loop: asyncio.AbstractEventLoop,
    began: asyncio.Event,
    seconds: float,
) -> None:
    with gone:
        loop.call_soon_threadsafe(began.set)
        time.sleep(seconds)


async def _load(url: str, found: Measured, phase: list[str], stop: asyncio.Event, rate: int) -> None:
    """Requests at a fixed rate, whether or not earlier ones have their answers."""
    headers = {"authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:
        tasks, began = [], time.perf_counter()
        while not stop.is_set():
            tasks.append(asyncio.create_task(_call(client, found, phase[0])))
            await asyncio.sleep(max(began + len(tasks) / rate - time.perf_counter(), 0))
        await asyncio.gather(*tasks)


async def _call(client: httpx.AsyncClient, found: Measured, phase: str) -> None:
    started = time.perf_counter()
    try:
        answer = await client.post("/v1/chat/completions", content=ask("gpt"))
        problem = "" if answer.status_code == 200 else f"status {answer.status_code}"
    except httpx.HTTPError as error:
        problem = type(error).__name__
    if problem:
        found.failures.append(f"{phase}: {problem}")
    else:
        found.times.setdefault(phase, []).append((time.perf_counter() - started) * 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", choices=KINDS)
    parser.add_argument("--seconds", type=float, default=30, help="of the outage, and of each calm")
    parser.add_argument("--rate", type=int, default=RATE, help="requests a second")
    given = parser.parse_args()
    with KINDS[given.database]() as database, tempfile.TemporaryDirectory(prefix="outage-") as directory:
        found = measure(database, Path(directory), calm=given.seconds, outage=given.seconds, rate=given.rate)
    shutil.rmtree(environment.DATA_DIR)
    print("\n".join(found.lines()))


if __name__ == "__main__":
    main()
