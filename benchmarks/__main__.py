"""Measures both doors of Switchstand beside nginx and a direct connection: docs/benchmarks.md."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks import load
from benchmarks.rig import KINDS, SUBJECTS, Rig, Subject, nginx_program
from benchmarks.servers import BenchmarkFailed, Servers, problem_with
from benchmarks.table import Cell, Run, Table

DEBIAN_PACKAGES = {"nginx": "nginx", "wrk": "wrk", "taskset": "util-linux"}
WARM_UP_SECONDS = 1


def main() -> int:
    options = parsed(sys.argv[1:])
    if problem := what_is_missing():
        print(problem, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, leave)
    signal.alarm(options.limit)
    try:
        table = measure(options)
    except (BenchmarkFailed, subprocess.SubprocessError) as error:
        print(f"No table: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything that was started is stopped.", file=sys.stderr)
        return 130
    print(f"\n{heading(options)}\n\n{table.text()}")
    if options.out:
        with options.out.open("a") as out:
            out.writelines(json.dumps(record) + "\n" for record in table.records())
    return 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=at_least_1, default=5, help="length of one run (5)")
    parser.add_argument("--repeats", type=at_least_1, default=3, help="runs per cell, for the median (3)")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=[*SUBJECTS, *KINDS],
        metavar="NAME",
        help=f"rows and kinds of load to measure, of {', '.join([*SUBJECTS, *KINDS])} (all)",
    )
    parser.add_argument("--connections", type=at_least_1, default=64, help="for JSON (64)")
    parser.add_argument("--streams", type=at_least_1, default=32, help="connections for streams (32)")
    parser.add_argument(
        "--limit", type=at_least_1, default=900, help="seconds after which all is stopped (900)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="append each cell as a line of JSON")
    return parser.parse_args(arguments)


def at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def what_is_missing() -> str | None:
    found = {"nginx": nginx_program(), "wrk": shutil.which("wrk"), "taskset": shutil.which("taskset")}
    if missing := [program for program, path in found.items() if not path]:
        packages = " ".join(DEBIAN_PACKAGES[program] for program in missing)
        return f"Not found: {', '.join(missing)}. On Debian: apt-get install {packages}"
    if len(os.sched_getaffinity(0)) < 2:
        return "Two cores are needed: one for the proxies, one for the load and the fake providers."
    return None


def leave(number: int, _frame: object) -> None:
    reason = "the time limit (--limit) passed" if number == signal.SIGALRM else "it was told to stop"
    raise BenchmarkFailed(reason)


def measure(options: argparse.Namespace) -> Table:
    core, load_core, *_ = sorted(os.sched_getaffinity(0))
    kinds = [kind for kind in KINDS if kind in options.only] or list(KINDS)
    names = [name for name in SUBJECTS if name in options.only] or list(SUBJECTS)
    connections = {"json": options.connections, "stream": options.streams}
    runs: dict[tuple[str, str], list[Run]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="switchstand-bench-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o711)  # nginx's workers drop root's rights
        with Servers(scratch) as servers:
            subjects = Rig(servers=servers, scratch=scratch, core=core, load_core=load_core).build(names)
            for seconds in [WARM_UP_SECONDS] + [options.seconds] * options.repeats:
                # All subjects take turns, so that a noisy minute of the machine hits each of them.
                for kind in kinds:
                    for subject in subjects:
                        run = one_run(subject, kind, connections[kind], seconds, load_core)
                        runs[subject.name, kind].append(run)
    # The first run was the warm-up.
    return Table([Cell.of(name, kind, connections[kind], each[1:]) for (name, kind), each in runs.items()])


def one_run(subject: Subject, kind: str, connections: int, seconds: int, load_core: int) -> Run:
    """Raises BenchmarkFailed where an answer was not a whole one: errors are quick and worth nothing."""
    target, server = subject.targets[kind], subject.server
    print(f"{subject.name} {kind}: {seconds} s", file=sys.stderr)
    before, begun = server.cpu_seconds() if server else 0.0, time.monotonic()
    measured = load.send(target, connections=connections, seconds=seconds, core=load_core)
    if problem := measured.problem(target):
        log = server.log_tail() if server else ""
        now = problem_with(target) or "a single request gets a whole answer now"
        raise BenchmarkFailed(f"{SUBJECTS[subject.name]}, {kind}: {problem}; {now}\n{log}")
    if not server:
        return Run(measured=measured, cpu=None, settle_cpu_seconds=0.0)
    cpu = (server.cpu_seconds() - before) / (time.monotonic() - begun)
    return Run(measured=measured, cpu=cpu, settle_cpu_seconds=server.wait_until_quiet())


def heading(options: argparse.Namespace) -> str:
    return (
        f"One core for the proxy, one for load and providers; median of {options.repeats} x "
        f"{options.seconds} s; JSON at {options.connections} connections, "
        f"32-chunk streams at {options.streams}."
    )


if __name__ == "__main__":
    sys.exit(main())
