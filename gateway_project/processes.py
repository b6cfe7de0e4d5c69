"""The commands of the processes that make up a gateway, and which of them `make serve` runs."""

import sys

from django.conf import settings

from gateway_project.supervisor import Part

DRAIN_SECONDS = 4  # of the web process in `make serve`: open streams may end by themselves
STOP_SECONDS = 4.6  # from Ctrl-C to the end of everything


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
    return [*_granian("127.0.0.1", port, DRAIN_SECONDS), "--workers=1", "proxy.demo_upstream:application"]


def together(demo_port: int | None) -> list[Part]:
    """The parts of `make serve`. The demo provider ends last: the web process drains what it answers."""
    commands = {"web": web(DRAIN_SECONDS), "worker": worker(), "beat": beat()}
    parts = [Part(name, tuple(command)) for name, command in commands.items()]
    return parts if demo_port is None else [*parts, Part("demo", tuple(demo(demo_port)), last=True)]


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
