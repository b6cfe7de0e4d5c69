"""The commands of the processes that make up a gateway, and how they are run together."""

import shlex
import sys

import honcho.manager
from django.conf import settings
from honcho.manager import Manager

STOP_SECONDS = 4  # from Ctrl-C to the end of what has not ended by itself


def web(drain_seconds: int) -> list[str]:
    return [
        *_granian(settings.HOST, settings.PORT, drain_seconds),
        f"--workers={settings.WEB_WORKERS}",
        "gateway_project.asgi:application",
    ]


def worker() -> list[str]:
    # Threads: the tasks wait for the network and the database, and a pool of processes costs memory.
    return [*_celery(), "worker", "--pool=threads", "--concurrency=4", "--without-mingle", "--without-gossip"]


def beat() -> list[str]:
    return [*_celery(), "beat", "--pidfile="]


def demo(port: int) -> list[str]:
    return [*_granian("127.0.0.1", port, STOP_SECONDS), "--workers=1", "proxy.demo_upstream:application"]


def run_together(commands: dict[str, list[str]]) -> int:
    """Run until one ends or Ctrl-C; the exit code of the first that ended."""
    honcho.manager.KILL_WAIT = STOP_SECONDS
    manager = Manager()
    for name, command in commands.items():
        # exec: signals must reach the process itself, not a shell around it.
        manager.add_process(name, f"exec {shlex.join(command)}")
    manager.loop()
    return int(manager.returncode or 0)


def _granian(host: str, port: int, drain_seconds: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "granian",
        "--interface=asgi",
        "--loop=uvloop",
        "--http=1",
        "--no-ws",
        "--backlog=4096",
        # Requests served at once per worker; limits and pools bound them with an answer, this one without.
        "--backpressure=16384",
        f"--workers-kill-timeout={drain_seconds}",
        "--log-level=warning",
        f"--host={host}",
        f"--port={port}",
    ]


def _celery() -> list[str]:
    return [sys.executable, "-m", "celery", "--app=gateway_project", "--quiet"]
