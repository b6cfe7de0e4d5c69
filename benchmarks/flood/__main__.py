"""Attacks, each beside a victim of 10 calls a second, and in turns beside as many harmless requests.

    python -m benchmarks.flood [--seconds 30] [--only NAME ...]

A real `serve --web-only` on loopback; ends with a table for docs/security.md and exit status 1 where a bound
does not hold. Needs two cores: the gateway has one, everything else the other.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import gateway
from benchmarks.flood.attacks import FLOODS, MB, Aim, Attack, Flood, Harmless, body, chat, send
from benchmarks.load import PROJECT
from benchmarks.servers import Server, Servers, free_ports, python

VICTIM, ATTACKER = "sk-victim-0123456789-0123456789", "sk-attacker-0123456789-0123456789"
MOST_MB, MOST_MS, MOST_ROWS, MOST_LINES = 64, 100.0, 60, 60
KINDS = ("quick", "slow", "endless-event", "endless-lines", "endless-stream", "endless-answer")


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one run."""

    requests: int
    mb: float
    rows: int
    lines: int
    callback_ms: float
    callback: str
    p99: float
    failed: int


class Scene:
    """The gateway, its provider, and what can be looked at from outside."""

    def __init__(self, servers: Servers, scratch: Path, seconds: float) -> None:
        self.scratch, self.seconds = scratch, seconds
        self.port, self.provider_port = free_ports(2)
        self.times = scratch / "loop-times"
        self.env = gateway.environment(scratch, self.port) | {"LOOP_TIMES_FILE": str(self.times)}
        self._set_up()
        servers.start("provider", python("-m", "benchmarks.flood.provider", str(self.provider_port)), 0)
        self.server: Server = servers.start("gateway", gateway.command(), 1, self.env)
        self.aim = Aim(self.port, ATTACKER)
        self._wait()

    def _set_up(self) -> None:
        url = f"http://127.0.0.1:{self.provider_port}"
        params = '{{model: "{kind}/{model}", api_base: "{url}/{path}/v1"}}'
        entry = '  - {{model_name: "{name}", litellm_params: ' + params + "}}"
        entries = [entry.format(name=kind, kind=kind, model="m", url=url, path=kind) for kind in KINDS]
        entries.append(entry.format(name="wild/*", kind="quick", model="*", url=url, path="quick"))
        entries.append(entry.format(name="shared", kind="pool", model="m", url=url, path="slow"))
        pool = "switchstand: {providers: {pool: {max_connections: 10, queue_timeout: 20}}}"
        config = self.scratch / "config.yaml"
        config.write_text("\n".join(["model_list:", *entries, pool, ""]))
        for command in (
            ("migrate", "-v0"),
            ("load_config", str(config)),
            ("create_key", "victim", "--key", VICTIM),
            ("create_key", "attacker", "--key", ATTACKER),
        ):
            _manage(self.env, *command)

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                if b" 200 " in asyncio.run(send(self.aim, [chat(body())(self.aim)])):
                    return
            time.sleep(0.2)
        raise SystemExit(f"the gateway does not answer:\n{self.server.log_tail()}")

    def resident(self) -> int:
        """Of the web process itself: its shipper is another one."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def rows(self, since: datetime) -> int:
        """Of requests that came then or later: rows of those that were given up come late."""
        with closing(sqlite3.connect(self.scratch / "data" / "switchstand.sqlite3", timeout=20)) as link:
            found = (
                "SELECT count(*) FROM monitoring_requestlog WHERE key_name <> 'victim' AND received_at >= ?"
            )
            return int(link.execute(found, [since.strftime("%Y-%m-%d %H:%M:%S.%f")]).fetchone()[0])

    def lines(self) -> int:
        return self.server.log.read_bytes().count(b"\n")

    def longest(self, after: int) -> tuple[float, str]:
        """Of the callbacks that were written down behind this byte."""
        if not self.times.exists():
            return 0.0, ""
        found = [json.loads(line) for line in self.times.read_bytes()[after:].splitlines()]
        worst = max(found, key=lambda one: float(one["ms"]), default={"ms": 0.0, "what": ""})
        return float(worst["ms"]), str(worst["what"])

    def run(self, flood: Flood, attack: Attack) -> Seen:
        self.server.wait_until_quiet()
        before, lines, begun = self.resident(), self.lines(), datetime.now(UTC)
        at = self.times.stat().st_size if self.times.exists() else 0
        self.aim.requests = 0
        with Peak(self) as peak:
            calls = asyncio.run(self._beside(flood, attack))
        self.server.wait_until_quiet()
        ms, what = self.longest(at)
        times = sorted(ms for ms, _ in calls)
        return Seen(
            requests=self.aim.requests,
            mb=(peak.bytes - before) / MB,
            rows=self.rows(begun),
            lines=self.lines() - lines,
            callback_ms=ms,
            callback=what,
            p99=times[int(len(times) * 0.99)],
            failed=sum(status != 200 for _, status in calls),
        )

    async def _beside(self, flood: Flood, attack: Attack) -> list[tuple[float, int]]:
        """What the victim saw, meanwhile."""
        command = [str(self.port), VICTIM, flood.victims_model, str(self.seconds)]
        victim = await asyncio.create_subprocess_exec(
            *python("-m", "benchmarks.flood.victim", *command), cwd=PROJECT, stdout=asyncio.subprocess.PIPE
        )
        attackers = [asyncio.ensure_future(attack(self.aim)) for _ in range(flood.connections)]
        output, _ = await victim.communicate()
        for one in attackers:
            one.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)
        return [(ms, status) for ms, status in json.loads(output)]


def _manage(env: dict[str, str], *command: str) -> None:
    arguments = [sys.executable, "manage.py", *command]
    subprocess.run(arguments, cwd=PROJECT, env=env, stdout=subprocess.DEVNULL, check=True)


class Peak:
    """The most memory that the web process had, looked at ten times a second."""

    def __init__(self, scene: Scene) -> None:
        self.bytes = 0
        self._scene, self._over = scene, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self.bytes = max(self.bytes, self._scene.resident())

    def __enter__(self) -> "Peak":
        self.bytes = self._scene.resident()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def exact(flood: Flood, seen: Seen) -> list[str]:
    """The bounds that did not hold, of those that no other work on the machine can move."""
    rules = {
        "memory": seen.mb <= MOST_MB,
        "rows": seen.rows <= (seen.requests if flood.with_key else MOST_ROWS),
        "log lines": seen.lines <= MOST_LINES,
        "loop": seen.callback_ms <= MOST_MS,
    }
    return [name for name, holds in rules.items() if not holds]


def broken(flood: Flood, seen: Seen, harmless: Seen) -> list[str]:
    """The bounds that did not hold."""
    rules = {
        "victim": seen.p99 <= max(250.0, 2 * harmless.p99),
        "victim's calls": seen.failed <= harmless.failed,
    }
    return exact(flood, seen) + [name for name, holds in rules.items() if not holds]


def line(flood: Flood, seen: Seen, harmless: Seen) -> str:
    cells = (
        flood.name,
        f"{seen.requests:,}",
        f"{seen.mb:+.0f} MB",
        f"{seen.rows:,}",
        f"{seen.lines:,}",
        f"{seen.callback_ms:.0f} ms",
        f"{seen.p99:,.0f} ms" + (f", {seen.failed} failed" if seen.failed else ""),
        f"{harmless.p99:,.0f} ms" + (f", {harmless.failed} failed" if harmless.failed else ""),
    )
    return f"| {' | '.join(cells)} |"


TITLES = (
    "attack | requests | web process | rows | log lines | longest callback (CPU) | victim's p99 "
    "| beside harmless"
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the attacks' names")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, {0})
    os.nice(5)  # the victim's answers are timed beside us
    chosen = [one for one in FLOODS if not options.only or any(part in one.name for part in options.only)]
    faults = 0
    with (
        tempfile.TemporaryDirectory(prefix="switchstand-flood-") as scratch,
        Servers(Path(scratch)) as servers,
    ):
        scene = Scene(servers, Path(scratch), options.seconds)
        print(f"| {TITLES} |\n|---|" + "---:|" * 7, flush=True)
        for flood in chosen:
            seen = scene.run(flood, flood.attack)
            calm = Harmless(seen.requests // flood.connections, options.seconds)
            harmless = scene.run(flood, calm.run)
            print(line(flood, seen, harmless), flush=True)
            if found := broken(flood, seen, harmless):
                faults += 1
                print(f"  does not hold: {', '.join(found)} {seen.callback}", file=sys.stderr, flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
