"""Where the processor time of a request goes: `make profile`, or `python -m benchmarks.stages`.

The engine runs in this process over a network in memory (benchmarks/in_process.py): real table, real
limits, real journal on disk. Entering and leaving a stage reads the clock; what one stage calls of another
counts for the other. A second part lists functions as cProfile sees them.
"""

import argparse
import cProfile
import inspect
import os
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

STAGES = {
    "parse HTTP, dispatch": ["proxy.doors.fast_lane:FastLaneProtocol.data_received"],
    "engine, between steps": [
        "proxy.doors.exchange:Exchange._serve",
        "proxy.engine:Engine.begin",
        "proxy.engine:Engine.go_on",
        "proxy.engine:Engine.finish",
    ],
    "1 identify": ["proxy.engine:Engine._identify"],
    "2 decode": ["proxy.engine:decode_chat"],
    "3 resolve": ["proxy.engine:resolve"],
    "4 choose, admit, settle": [
        "proxy.engine:admit_at_once",
        "proxy.engine:admit_closely",
        "proxy.attempts.fallbacks:choose",
        "proxy.admission.memory:MemoryGrant.settle",
    ],
    "open, journal": [
        "proxy.accounting.account:Accounting.open",
        "proxy.journal.writer:JournalWriter.gather",
        "proxy.journal.writer:JournalWriter._flush",
    ],
    "5 attempt": ["proxy.attempts.failover:Attempts.begin", "proxy.attempts.failover:Attempts.first_answer"],
    "transport": [
        "proxy.transports.fast:FastTransport.begin",
        "proxy.transports.fast:FastTransport.send",
        "proxy.transports.http1:Http1Response.head",
        "proxy.transports.http1:Http1Connection.request",
        "proxy.transports.http1:Http1Connection.data_received",
        "proxy.transports.http1:Http1Response.read",
        "proxy.transports.http1:Http1Response.next_chunk",
    ],
    "headers": ["proxy.answers.headers:AnswerHeaders.of_answer"],
    "6 relay": [
        "proxy.answers.whole:Whole.__init__",
        "proxy.answers.whole:Whole.close",
        "proxy.answers.relay:Relay.__init__",
        "proxy.answers.relay:Relay.next_chunk",
        "proxy.answers.relay:Relay.aclose",
    ],
    "7 account": [
        "proxy.accounting.account:Accounting.close",
        "proxy.accounting.account:Accounting._make_row",
        "proxy.accounting.account:Accounting._count",
        "proxy.engine:price_call",
    ],
    "write": ["proxy.doors.exchange:Exchange.respond", "proxy.doors.exchange:Exchange._stream"],
    "(the fake client and provider)": [
        "benchmarks.in_process:MemoryLoop.send",
        "benchmarks.in_process:MemoryLoop.provide",
        "benchmarks.in_process:MemoryTransport.write",
    ],
}
LOOP = "event loop, between tasks"
FAKE = "(the fake client and provider)"
TOP_FUNCTIONS = 25
SCENARIOS_SHOWN = ("json", "s32")
CONNECTIONS = 16  # requests that come together are handled together: one by one each step costs more


class Clock:
    """Time by stage: `stack` holds the stages that are entered, the last one gets the time that passes."""

    def __init__(self) -> None:
        self.spent = dict.fromkeys([*STAGES, LOOP], 0)
        self.requests: list[dict[str, int]] = []
        self._stack = [LOOP]
        self._since = time.perf_counter_ns()

    def enter(self, stage: str) -> None:
        now = time.perf_counter_ns()
        self.spent[self._stack[-1]] += now - self._since
        self._stack.append(stage)
        self._since = now

    def leave(self) -> None:
        now = time.perf_counter_ns()
        self.spent[self._stack.pop()] += now - self._since
        self._since = now

    def end_request(self) -> None:
        self.requests.append(self.spent)
        self.spent = dict.fromkeys(self.spent, 0)

    def medians(self) -> dict[str, float]:
        """Microseconds per request; the first ones, which find nothing warm, are left out."""
        found = {}
        for stage in (*STAGES, LOOP):
            spent = [request[stage] for request in self.requests]
            turns = [sum(spent[at : at + CONNECTIONS]) for at in range(0, len(spent), CONNECTIONS)]
            found[stage] = statistics.median(turns[len(turns) // 10 :]) / CONNECTIONS / 1000
        return found

    def watch(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*arguments: Any, **words: Any) -> Any:
                self.enter(stage)
                try:
                    return await function(*arguments, **words)
                finally:
                    self.leave()

            return awaited

        @wraps(function)
        def called(*arguments: Any, **words: Any) -> Any:
            self.enter(stage)
            try:
                return function(*arguments, **words)
            finally:
                self.leave()

        return called


def places() -> Iterator[tuple[str, str, Any, str]]:
    """(stage, full name, object, attribute) of all that is watched and exists."""
    for stage, names in STAGES.items():
        for name in names:
            module, _, path = name.partition(":")
            *parents, attribute = path.split(".")
            owner: Any = import_module(module)
            for parent in parents:
                owner = getattr(owner, parent, None)
            if hasattr(owner, attribute):
                yield stage, name, owner, attribute


def missing() -> list[str]:
    """Names in STAGES that the code no longer has: their time counts for what calls them."""
    found = {name for _, name, _, _ in places()}
    return [name for names in STAGES.values() for name in names if name not in found]


@contextmanager
def watched(clock: Clock) -> Iterator[None]:
    with ExitStack() as stack:
        for stage, _, owner, attribute in list(places()):
            original = inspect.getattr_static(owner, attribute)
            setattr(owner, attribute, clock.watch(original, stage))
            stack.callback(setattr, owner, attribute, original)
        yield


def cost_of_watching() -> float:
    """Microseconds that entering and leaving a stage takes, about half of it in the stage itself."""
    clock = Clock()
    function = clock.watch(lambda: None, LOOP)
    begun = time.perf_counter_ns()
    for _ in range(20_000):
        function()
    return (time.perf_counter_ns() - begun) / 20_000 / 1000


def table(name: str, clock: Clock, plain_us: float) -> str:
    medians = clock.medians()
    own = {stage: spent for stage, spent in medians.items() if stage != FAKE}
    total = sum(own.values())
    lines = [f"{name:<34}{'µs':>9}{'share':>9}"]
    lines += [f"{stage:<34}{spent:>9.1f}{spent / total:>9.1%}" for stage, spent in own.items()]
    lines.append(f"{'together':<34}{total:>9.1f}")
    lines.append(f"{FAKE:<34}{medians[FAKE]:>9.1f}")
    lines.append(f"{'all of it, with no clock read':<34}{plain_us:>9.1f}")
    return "\n".join(lines)


def functions(profile: cProfile.Profile, requests: int) -> str:
    """The TOP_FUNCTIONS by their own time; cProfile makes calls look dearer than they are."""
    stats: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    rows = sorted(stats.items(), key=lambda row: -row[1][2])[:TOP_FUNCTIONS]
    lines = [f"{'by function (cProfile)':<62}{'calls':>8}{'own µs':>9}{'all µs':>9}"]
    for (file, line, function), (_, calls, own, together, _) in rows:
        place = f"{_short(file)}:{line} {function}" if line else function
        figures = f"{calls / requests:>8.1f}{own / requests * 1e6:>9.2f}{together / requests * 1e6:>9.2f}"
        lines.append(f"{place[-60:]:<62}{figures}")
    return "\n".join(lines)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else "/".join(path.parts[-2:])


@contextmanager
def scratch_gateway() -> Iterator[Any]:
    """An InProcess on a database and a journal that are thrown away afterwards."""
    with tempfile.TemporaryDirectory(prefix="switchstand-profile-") as folder:
        os.environ |= {
            "DATA_DIR": folder,
            "DJANGO_SETTINGS_MODULE": "gateway_project.settings",
            "LOG_LEVEL": "WARNING",
        }
        for name in ("DATABASE_URL", "REDIS_URL", "LITELLM_CONFIG"):
            os.environ.pop(name, None)
        import django

        django.setup()
        from benchmarks import gateway
        from benchmarks.in_process import InProcess
        from benchmarks.rig import MODEL

        set_up(Path(folder))
        from proxy.gateway import build_gateway

        built = build_gateway()
        built.keeper.refresh()
        with InProcess(built, gateway.KEY, MODEL) as engine:
            yield engine


def set_up(folder: Path) -> None:
    from django.core.management import call_command

    from benchmarks import gateway
    from benchmarks.servers import filled

    config = filled("limits_config.yaml", folder, {"JSON_PORT": 9, "OTHER_PORT": 9})
    with (folder / "set-up.log").open("w") as log:
        call_command("migrate", verbosity=0)
        call_command("load_config", str(config), stdout=log)
        call_command("create_key", "profile", "--key", gateway.KEY, *gateway.LIMITS, stdout=log)


def profiled(engine: Any, name: str, requests: int) -> str:
    from benchmarks.answers import SCENARIOS

    scenario = SCENARIOS[name]
    run = partial(engine.run, scenario, requests // CONNECTIONS, connections=CONNECTIONS)
    run()  # warm
    ends: list[int] = []
    run(lambda: ends.append(time.perf_counter_ns()))
    turns = pairwise(ends[::CONNECTIONS])
    plain_us = statistics.median(after - before for before, after in turns) / CONNECTIONS / 1000
    clock = Clock()
    with watched(clock):
        run(clock.end_request)
    profile = cProfile.Profile()
    profile.enable()
    run()
    profile.disable()
    title = f"a stream of {scenario.chunks} chunks" if scenario.is_stream else "one JSON answer"
    return f"{table(title, clock, plain_us)}\n\n{functions(profile, requests)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--requests", type=int, default=3000, help="of each kind (3000)")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS_SHOWN, default=SCENARIOS_SHOWN)
    options = parser.parse_args()
    with scratch_gateway() as engine:
        parts = [profiled(engine, name, options.requests) for name in options.only]
    print(f"Key with limits and a budget, two targets, journal to disk; {CONNECTIONS} connections.")
    print("Medians per request.")
    print(f"Reading the clock costs {cost_of_watching():.2f} µs for each call of a stage.\n")
    print("\n\n".join(parts))
    if gone := missing():
        print(f"\nNo longer there, see STAGES in benchmarks/stages.py: {', '.join(gone)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
