"""The web server: uvicorn with the fast lane. `python -m gateway_project.web --port N`."""

import argparse
import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

import uvicorn
from django.conf import settings
from uvicorn.supervisors import Multiprocess

from monitoring.backlog import backlog_bytes
from monitoring.shipper_state import read_state

logger = logging.getLogger(__name__)

BACKLOG = 4096
SHIPPER_STOP_SECONDS = 2
KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's usual 60, so that it is never we who close first


def config(host: str, port: int, workers: int, drain_seconds: int) -> uvicorn.Config:
    return uvicorn.Config(
        "gateway_project.asgi:application",
        host=host,
        port=port,
        workers=workers,
        http="gateway_project.lane:FastLaneProtocol",
        ws="none",
        loop="uvloop",
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=drain_seconds,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="warning",
    )


@contextlib.contextmanager
def shipping() -> Iterator[None]:
    """The shipper in a process of its own: it must not share the interpreter lock with requests."""
    ended = threading.Event()
    started: list[subprocess.Popen[bytes]] = [_start_shipper()]

    def watch() -> None:
        while not ended.is_set():
            started[-1].wait()
            if not ended.wait(1):
                logger.error("the journal's shipper ended with %s; starting it again", started[-1].returncode)
                started.append(_start_shipper())

    threading.Thread(target=watch, name="shipper-watch", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _end_shipper(started[-1])


def _start_shipper() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "django", "ship_journal"]
    # Out of the reach of a Ctrl-C: the web process has yet to write its last record. Not a session of
    # its own: Linux weighs sessions against each other (autogroups), whatever its processes' priorities.
    return subprocess.Popen(command, cwd=settings.BASE_DIR, stdin=subprocess.PIPE, process_group=0)


def _end_shipper(shipper: subprocess.Popen[bytes]) -> None:
    assert shipper.stdin is not None
    shipper.stdin.close()
    directory = Path(settings.JOURNAL_DIR)
    if not backlog_bytes(directory, read_state(directory)):
        shipper.terminate()  # heard only while it starts, which on a busy machine takes long
    with contextlib.suppress(subprocess.TimeoutExpired):
        shipper.wait(SHIPPER_STOP_SECONDS)  # it goes on by itself where the database is slow


def allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1,024: a stream needs two, to client and provider."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may refuse what it calls its own limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway_project.web", description=__doc__)
    parser.add_argument("--host", default=settings.HOST)
    parser.add_argument("--port", type=int, default=settings.PORT)
    parser.add_argument("--workers", type=int, default=settings.WEB_WORKERS)
    parser.add_argument("--drain-seconds", type=int, default=settings.DRAIN_SECONDS)
    options = parser.parse_args(arguments)
    allow_many_connections()
    chosen = config(options.host, options.port, options.workers, options.drain_seconds)
    with shipping():
        if options.workers > 1:
            Multiprocess(chosen, sockets=[chosen.bind_socket()]).run()
            return 0
        server = uvicorn.Server(chosen)
        server.run()
        return 0 if server.started else 1


if __name__ == "__main__":
    # uvicorn drains, then raises the signal again: being told to stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    sys.exit(main(sys.argv[1:]))
