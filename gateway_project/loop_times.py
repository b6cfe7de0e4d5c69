"""For the benchmark of attacks: which callback held the event loop for how much CPU time.

Off unless LOOP_TIMES_FILE names a file; the loop is then asyncio's own, whose callbacks can be timed.
"""

import asyncio
import functools
import gc
import json
import os
import time
from typing import Any

LOGGED_MS = 10.0


def _name(handle: Any) -> str:
    """Of a step of a task: which one."""
    return repr(getattr(handle._callback, "__self__", None) or handle)


class _Collecting:
    """What the garbage collector took of the callback that runs."""

    ms = 0.0
    began = 0.0

    def tell(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self.began = time.thread_time()
        else:
            self.ms += (time.thread_time() - self.began) * 1000


def _collecting() -> _Collecting:
    found = _Collecting()
    gc.callbacks.append(found.tell)
    return found


def install(path: str) -> None:
    """Each callback of this process that takes longer becomes a line of the file."""
    collecting = _collecting()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    run = asyncio.Handle._run

    @functools.wraps(run)
    def timed(handle: Any) -> None:
        collecting.ms = 0.0
        began = time.thread_time()
        try:
            run(handle)
        finally:
            spent = (time.thread_time() - began) * 1000
            if spent > LOGGED_MS:
                what = f"{collecting.ms:.0f} ms of it garbage; {_name(handle)}"
                line = json.dumps({"ms": round(spent, 1), "what": what[:300]})
                os.write(file, line.encode() + b"\n")

    asyncio.Handle._run = timed  # type: ignore[method-assign, assignment]
