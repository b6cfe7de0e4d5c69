"""SIGINT and SIGTERM in a server's worker process: while it starts, and at the moment it must drain.

Without Django: the demo provider imports it too.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

STOP = (signal.SIGINT, signal.SIGTERM)


def obey_while_starting() -> None:
    """Call it first in the module that the server imports.

    granian forks its workers, so until it serves a worker has its parent's handlers. These note the
    signal where nobody in the worker looks: it would start, serve on, and be killed at the end of the
    time to drain. Nothing is open yet, so it may as well end at once.
    """
    for number in STOP:
        handler = signal.getsignal(number)
        told: bool | None = getattr(getattr(handler, "__self__", None), "interrupt_signal", None)
        if told is None:
            continue  # not forked by granian
        signal.signal(number, signal.SIG_DFL)
        if told:
            os.kill(os.getpid(), number)


def on_stop(act: Callable[[], None]) -> None:
    """Call `act` in the main thread as soon as a stop signal arrives, before the server's own handler.

    Call it once the server has set its handlers (lifespan startup). Does nothing outside the main
    thread, where Python allows no handlers. Event loops read signals from a file descriptor that
    keeps working beside a handler; servers that set plain handlers are called from ours.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOP:
        _chain(number, act)


def _chain(number: signal.Signals, act: Callable[[], None]) -> None:
    before = signal.getsignal(number)

    def handler(received: int, frame: FrameType | None) -> None:
        act()
        if callable(before):
            before(received, frame)

    signal.signal(number, handler)
