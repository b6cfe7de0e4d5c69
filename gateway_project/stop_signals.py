"""SIGINT and SIGTERM in a web process: known at the moment that it must drain."""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType


def on_stop(act: Callable[[], None], *, notice: float) -> None:
    """Call `act` as soon as a stop signal arrives, and hand it to the server `notice` seconds later.

    So readiness can say that we drain while the socket still listens. Call it once the server has set
    its handlers (lifespan startup). Does nothing outside the main thread, where Python allows none.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            _chain(number, act, notice, asyncio.get_running_loop())


def _chain(
    number: signal.Signals, act: Callable[[], None], notice: float, loop: asyncio.AbstractEventLoop
) -> None:
    server = signal.getsignal(number)
    told = False

    def handler(received: int, frame: FrameType | None) -> None:
        nonlocal told
        first, told = not told, True
        act()
        if not callable(server):
            return
        if first and notice:
            loop.call_soon_threadsafe(loop.call_later, notice, server, received, None)
        else:
            server(received, frame)

    signal.signal(number, handler)
