"""The commands of the processes that make up a gateway, and which of them `make serve` runs."""

import sys

from gateway_project.supervisor import Part

DRAIN_SECONDS = 3  # of the web process in `make serve`: open streams may end by themselves
STOP_SECONDS = 3.5  # from Ctrl-C to the end of everything


def web(drain_seconds: int) -> list[str]:
    return [sys.executable, "-m", "gateway_project.web", f"--drain-seconds={drain_seconds}"]


def background(stop_seconds: float) -> list[str]:
    return [sys.executable, "-m", "gateway_project.background", f"--stop-seconds={stop_seconds}"]


def worker() -> list[str]:
    # Threads: the tasks wait for the network and the database, and a pool of processes costs memory.
    return [*_celery(), "worker", "--pool=threads", "--without-mingle", "--without-gossip"]


def beat() -> list[str]:
    return [*_celery(), "beat", "--pidfile="]


def together() -> list[Part]:
    """The parts of `make serve`; web starts the journal's shipper itself."""
    return [
        Part("web", (*web(DRAIN_SECONDS), "--end-with-stdin"), vital=True),
        Part("background", tuple(background(STOP_SECONDS))),
    ]


def _celery() -> list[str]:
    return [sys.executable, "-m", "celery", "--app=gateway_project", "--quiet"]
