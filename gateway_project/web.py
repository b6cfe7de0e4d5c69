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
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_project.settings")

import uvicorn
from django.conf import settings
from uvicorn.supervisors import Multiprocess

from gateway_project import loop_times
from gateway_project.parent import end_with_parent
from monitoring.background.restarts import Restarts, how_it_ended
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.state import read_state

logger = logging.getLogger(__name__)

BACKLOG = 4096
SHIPPER_STOP_SECONDS = 2
PARENT_GONE_SECONDS = 5.0  # beside the time to drain, for what is written at the end
KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's usual 60, so that it is never we who close first


def config(host: str, port: int, workers: int, drain_seconds: int) -> uvicorn.Config:
    return uvicorn.Config(
        "gateway_project.asgi:application",
        host=host,
        port=port,
        workers=workers,
        http="gateway_project.lane:FastLaneProtocol",
        ws="none",
        loop="asyncio" if settings.LOOP_TIMES_FILE else "uvloop",
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


class Shipping:
    """The shipper in a process of its own: it must not share the interpreter lock with requests."""

    def __init__(self) -> None:
        self._restarts = Restarts("shipper", Path(settings.PARTS_DIR))
        self._ended = threading.Event()
        self._turn = threading.Lock()
        self._shipper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> None:
        threading.Thread(target=self._keep, name="shipper-watch", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with self._turn:
            if self._shipper is not None:
                _end_shipper(self._shipper)

    def _keep(self) -> None:
        """Start it again whenever it ends, until the web process does."""
        pause = 0.0
        while not self._ended.wait(pause):
            how = self._run()
            if not self._ended.is_set():
                pause, line = self._restarts.ended(how)
                if line:
                    logger.error("the journal's shipper %s", line)

    def _run(self) -> str:
        """Until it has ended; how it did."""
        self._restarts.began()
        try:
            with self._turn:
                if self._ended.is_set():
                    return ""
                self._shipper = _start_shipper()
        except OSError as error:
            return f"can't be started: {error.strerror}"
        return how_it_ended(self._shipper.wait())


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
    parser.add_argument("--end-with-stdin", action="store_true", help="as `make serve` starts it")
    options = parser.parse_args(arguments)
    if options.end_with_stdin:
        end_with_parent(options.drain_seconds + settings.DRAIN_NOTICE_SECONDS + PARENT_GONE_SECONDS)
    allow_many_connections()
    if settings.LOOP_TIMES_FILE:
        loop_times.install(settings.LOOP_TIMES_FILE)
    chosen = config(options.host, options.port, options.workers, options.drain_seconds)
    with Shipping():
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
