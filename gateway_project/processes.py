"""The commands of the processes that make up a gateway, and which of them `make serve` runs."""

import sys

from gateway_project.supervisor import Part

DRAIN_SECONDS = 3  # of the web process in `make serve`: open streams may end by themselves
STOP_SECONDS = 4  # from Ctrl-C to the end of everything


def web(drain_seconds: int) -> list[str]:
    return [sys.executable, "-m", "gateway_project.web", f"--drain-seconds={drain_seconds}"]


def worker() -> list[str]:
    # Threads: the tasks wait for the network and the database, and a pool of processes costs memory.
    return [*_celery(), "worker", "--pool=threads", "--concurrency=4", "--without-mingle", "--without-gossip"]


def beat() -> list[str]:
    return [*_celery(), "beat", "--pidfile="]


def demo(port: int) -> list[str]:
    options = [f"--port={port}", f"--timeout-graceful-shutdown={DRAIN_SECONDS}", "--log-level=warning"]
    return [sys.executable, "-m", "uvicorn", *options, "proxy.demo_upstream:application"]


def together(demo_port: int | None) -> list[Part]:
    """The parts of `make serve`. The demo provider ends last: the web process drains what it answers."""
    commands = {"web": web(DRAIN_SECONDS), "worker": worker(), "beat": beat()}
    parts = [Part(name, tuple(command)) for name, command in commands.items()]
    return parts if demo_port is None else [*parts, Part("demo", tuple(demo(demo_port)), last=True)]


def _celery() -> list[str]:
    return [sys.executable, "-m", "celery", "--app=gateway_project", "--quiet"]
