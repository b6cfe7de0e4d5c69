"""A part of `make serve` ends by itself where the supervisor is gone, however that ended."""

import os
import signal
import threading
import time


def end_with_parent(seconds: float) -> None:
    """When standard input ends, whose other end the supervisor holds, stop in order: within `seconds`."""
    threading.Thread(target=_watch, args=(seconds,), name="parent", daemon=True).start()


def _watch(seconds: float) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(seconds)
    os.killpg(os.getpgid(0), signal.SIGKILL)
