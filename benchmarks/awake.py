"""Keeps its core from sleeping: `python -m benchmarks.awake`.

It has idle priority, so it gives way at once to whoever else wants the core. Waking a core of a virtual
machine takes 30 to 50 µs, and a request at one connection finds the load's core asleep twice.
"""

import os
from pathlib import Path

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")


def problem() -> str | None:
    """Why such a process would hold up others here."""
    if AUTOGROUP.exists() and AUTOGROUP.read_text().strip() != "0":
        return (
            "--awake: this system weighs sessions against each other, whatever their processes' priorities. "
            "First: sysctl kernel.sched_autogroup_enabled=0"
        )
    return None


def main() -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


if __name__ == "__main__":
    main()
