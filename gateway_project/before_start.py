"""What `serve` looks at before Django starts: whether it may run here, and on this port."""

import contextlib
import errno
import fcntl
import os
import socket
import sys
import time
from pathlib import Path

from django.conf import settings

LOCK = "serve.lock"
_held: list[int] = []
"""The lock's file, open for as long as this process lives. A flock ends with its last holder, however
that one ends: what a dead process left behind is no lock, and its number may be anyone's by now."""


class MayNotStart(Exception):
    """The message is for who started it."""


def look(*, web_only: bool) -> None:
    """Take DATA_DIR for this process; once taken, it is. Raises MayNotStart."""
    if _held:
        return
    if not (web_only and settings.REDIS_URL):
        _take(settings.DATA_DIR / LOCK)
        # `--web-only` becomes the web process. Those that it starts in turn inherit no files.
        os.set_inheritable(_held[0], web_only)
    _look_at_port(settings.HOST, settings.PORT)
    if warning := open_to_others(settings.DATA_DIR):
        print(warning, file=sys.stderr)


def open_to_others(directory: Path) -> str:
    """What to say where others may enter the directory; "" where they may not."""
    mode = directory.stat().st_mode & 0o777
    if not mode & 0o077:
        return ""
    return f"WARNING: others may enter DATA_DIR, which holds keys and prompts: chmod 700 {directory}"


def _take(file: Path) -> None:
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise MayNotStart(f"{file} can't be opened: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MayNotStart(_holder(file)) from None
    except OSError as error:  # some network file systems know no locks
        print(
            f"WARNING: {file} can't be locked ({error.strerror}): start one gateway here only",
            file=sys.stderr,
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {settings.PORT}\n".encode(), 0)
    _held.append(descriptor)


def _holder(file: Path) -> str:
    place = f"(DATA_DIR {file.parent})."
    for _ in range(20):  # it writes its numbers a moment after it took the lock
        with contextlib.suppress(ValueError):
            process, port = file.read_text().split()
            return f"Switchstand is already running here as process {process} on port {port} {place}"
        time.sleep(0.05)
    return f"Switchstand is already running here {place}"


def _look_at_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise MayNotStart(f"HOST={host} PORT={port}: {error.strerror}.") from None
        raise MayNotStart(f"Port {port} is taken. Another one: make serve PORT={other_port(port)}") from None


def other_port(port: int) -> int:
    return port + 10 if port <= 65525 else port - 10
