"""The commands of the processes that make up a gateway, and how they are run together."""

import shlex
import sys

import honcho.manager
from honcho.manager import Manager

STOP_SECONDS = 4  # from Ctrl-C to the end of what has not ended by itself


def web(drain_seconds: int) -> list[str]:
    return [sys.executable, "-m", "gateway_project.web", f"--drain-seconds={drain_seconds}"]


def worker() -> list[str]:
    # Threads: the tasks wait for the network and the database, and a pool of processes costs memory.
    return [*_celery(), "worker", "--pool=threads", "--concurrency=4", "--without-mingle", "--without-gossip"]


def beat() -> list[str]:
    return [*_celery(), "beat", "--pidfile="]


def demo(port: int) -> list[str]:
    options = [f"--port={port}", f"--timeout-graceful-shutdown={STOP_SECONDS}", "--log-level=warning"]
    return [sys.executable, "-m", "uvicorn", *options, "proxy.demo_upstream:application"]


def run_together(commands: dict[str, list[str]]) -> int:
    """Run until one ends or Ctrl-C; the exit code of the first that ended."""
    honcho.manager.KILL_WAIT = STOP_SECONDS
    manager = Manager()
    for name, command in commands.items():
        # exec: signals must reach the process itself, not a shell around it.
        manager.add_process(name, f"exec {shlex.join(command)}")
    manager.loop()
    return int(manager.returncode or 0)


def _celery() -> list[str]:
    return [sys.executable, "-m", "celery", "--app=gateway_project", "--quiet"]
