"""Measures Switchstand beside nginx, other gateways and a direct connection: docs/performance.md."""

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import awake, cores, peers, soak, turns
from benchmarks.cells import CELLS, GROUPS, PEERS, SUBJECTS, Cell, chosen
from benchmarks.measuring import CellFailed, Measuring
from benchmarks.rig import Rig, Subject, nginx_program
from benchmarks.servers import BenchmarkFailed, Servers
from benchmarks.table import Table

DEBIAN_PACKAGES = {"nginx": "nginx", "wrk": "wrk", "taskset": "util-linux"}
WARM_UP_SECONDS = 1
WARM_UP = ("json-64", "stream-32")
WARMED = ("json", "stream", "ttft", "whole", "body")  # kinds of cells that want a warm process


def main() -> int:
    options = parsed(sys.argv[1:])
    if problem := what_is_missing() or (awake.problem() if options.awake else None):
        print(problem, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, leave)
    signal.alarm(options.limit)
    allow_many_connections()
    try:
        return run(options)
    except (BenchmarkFailed, subprocess.SubprocessError) as error:
        print(f"No table: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; everything that was started is stopped.", file=sys.stderr)
        return 130


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="switchstand-bench-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o711)  # nginx's workers drop root's rights
        core, load_core, *_ = sorted(os.sched_getaffinity(0))
        with Servers(scratch) as servers:
            rig = Rig(servers=servers, scratch=scratch, core=core, load_core=load_core)
            if options.awake:
                rig.keep_awake()
            if options.soak:
                print(soak.run(rig, options.soak))
                return 0
            table, stopped = Table(), ""
            try:
                measure(options, rig, table)
            except BenchmarkFailed as failure:
                if not table.cells:
                    raise
                stopped = f"\n\nNot all of it: {failure}."
    print(f"\n{heading(options)}\n\n{table.text()}{stopped}")
    if options.json:
        write(options.json, heading(options), table)
    return 1 if stopped or any(subject not in PEERS for _, subject in table.failed) else 0


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--seconds", type=at_least_1, default=2, help="length of one run (2)")
    parser.add_argument("--repeats", type=at_least_1, default=3, help="runs per cell, for the median (3)")
    parser.add_argument(
        "--turns",
        action="store_true",
        help="rates only, all subjects by turns of less than a second: for a machine that others use too",
    )
    parser.add_argument(
        "--awake",
        action="store_true",
        help="keep the load's core from sleeping: for times at one connection on a virtual machine",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=SUBJECTS,
        metavar="NAME",
        help=f"what to measure, of {', '.join(SUBJECTS)} (all but the last three: see --peers)",
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        default=[],
        choices=[*CELLS, *GROUPS],
        metavar="NAME",
        help=f"loads, of {', '.join(CELLS)}; {', '.join(GROUPS)} stand for all that begin so (all)",
    )
    parser.add_argument(
        "--peers", action="store_true", help=f"also {', '.join(PEERS)}; installs them where that is needed"
    )
    parser.add_argument(
        "--soak",
        type=at_least_1,
        metavar="N",
        help="no table: N requests to the fast lane with limits, and how its memory grows",
    )
    parser.add_argument(
        "--limit", type=at_least_1, default=3600, help="seconds after which all is stopped (3600)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as JSON; - here")
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


def allow_many_connections() -> None:
    """All that is started inherits it: 5,000 held connections need as many files, a proxy twice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(options: argparse.Namespace, rig: Rig, table: Table) -> None:
    wanted = options.only or [name for name in SUBJECTS if options.peers or name not in PEERS]
    cells = chosen(options.cells)
    subjects = rig.build(wanted)
    also, problems = peers.build(rig, wanted)
    table.notes += problems
    measuring, everyone = Measuring(seconds=options.seconds, core=rig.load_core), [*subjects, *also]
    warm = False
    for cell in cells:
        if not warm and cell.kind in WARMED:
            warm_up(measuring, everyone)
            warm = True
        for _ in range(min(options.repeats, cell.most_repeats)):
            # All subjects take turns, so that a noisy minute of the machine hits each of them.
            mine = [
                subject
                for subject in everyone
                if subject.name in cell.subjects and (cell.name, subject.name) not in table.failed
            ]
            if options.turns and cell.kind in turns.KINDS:
                several_runs(options, rig, table, cell, mine)
                mine = [subject for subject in mine if subject.name in turns.TOO_SLOW]
            for subject in mine:
                one_run(measuring, table, cell, subject)


def several_runs(
    options: argparse.Namespace, rig: Rig, table: Table, cell: Cell, subjects: list[Subject]
) -> None:
    quick = [subject for subject in subjects if subject.name not in turns.TOO_SLOW]
    print(f"{cell.name}, by turns: {', '.join(subject.name for subject in quick)}", file=sys.stderr)
    for name, run in turns.take(cell, quick, options.seconds, rig.load_core).items():
        if isinstance(run, CellFailed):
            table.fail(cell, name, f"{run}.")
        else:
            table.add(cell, name, run)


def one_run(measuring: Measuring, table: Table, cell: Cell, subject: Subject) -> None:
    print(f"{cell.name}: {subject.name}", file=sys.stderr)
    try:
        table.add(cell, subject.name, measuring.measure(cell, subject))
    except CellFailed as failure:
        server = subject.server_of(cell.scenario)
        print(f"{failure}\n{server.log_tail() if server else ''}", file=sys.stderr)
        table.fail(cell, subject.name, f"{failure}.")


def warm_up(measuring: Measuring, subjects: list[Subject]) -> None:
    quick = Measuring(seconds=WARM_UP_SECONDS, core=measuring.core)
    for subject in subjects:
        for cell in WARM_UP:
            one_run(quick, Table(), CELLS[cell], subject)


def heading(options: argparse.Namespace) -> str:
    kept = ", which never sleeps" if options.awake else ""
    return (
        f"One core for the proxy, one for load and providers{kept}; median of {options.repeats} x "
        f"{options.seconds} s; Python {platform.python_version()}.\n"
        f"+p50: over direct. Right of CPU: the rate over that of each other one. {cores.at_rest()}"
    ).rstrip()


def write(file: Path, title: str, table: Table) -> None:
    text = json.dumps({"heading": title, "cells": table.records(), "notes": table.notes}, indent=1)
    if str(file) == "-":
        print(text)
    else:
        file.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
