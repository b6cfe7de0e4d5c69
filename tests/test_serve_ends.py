"""How `make serve` ends, at any moment: every process with it, streams told to their end."""

import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests import plain
from tests.live import until
from tests.served import Served

pytestmark = pytest.mark.usefixtures("migrated")
PARTS = ("gateway_project.web", "ship_journal", "gateway_project.background")


class Streaming(threading.Thread):
    """Asks for a stream in the background and keeps all of it."""

    def __init__(self, served: Served, words: int) -> None:
        super().__init__(daemon=True)
        self._served, self._words = served, words
        self.lines: list[str] = []
        self.problem: Exception | None = None
        self.start()
        until(lambda: len(self.lines) > 3, "the stream has begun")

    def run(self) -> None:
        messages = [{"role": "user", "content": " ".join(["word"] * self._words)}]
        body = {"model": "demo-echo", "stream": True, "messages": messages}
        headers = {"authorization": f"Bearer {self._served.key}"}
        url = f"{self._served.url}/v1/chat/completions"
        try:
            with plain.stream("POST", url, json=body, headers=headers, timeout=30) as response:
                for line in filter(None, response.iter_lines()):
                    self.lines.append(line)
        except httpx.TransportError as error:
            self.problem = error


def nothing_runs(served: Served) -> None:
    """The shipper may be last: it ends by itself, when it has shipped what is left.

    Where it was starting, on a machine that runs other tests beside, that takes some seconds.
    """
    until(lambda: not served.processes(), lambda: f"all have ended: {served.processes()}", 10)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_ends_every_process_and_lets_streams_end(start: Callable[..., Served], sign: int) -> None:
    served = start()
    until(
        lambda: all(any(part in line for line in served.processes().values()) for part in PARTS),
        "all parts run",
        60,
    )
    stream = Streaming(served, words=25)  # with the greeting about 2 s
    begun = time.monotonic()
    code = served.stop(sign, seconds=5)
    took = time.monotonic() - begun
    nothing_runs(served)
    assert took > 1, "the stream was in flight"
    assert code == 0, "told to stop is no failure"
    stream.join(1)
    assert stream.problem is None
    assert stream.lines[-1] == "data: [DONE]"
    assert sum('"word "' in line for line in stream.lines) == 25
    assert "Killing" not in served.output
    assert "Unexpected exit" not in served.output


def test_a_stream_longer_than_the_drain_delays_no_stop(start: Callable[..., Served]) -> None:
    served = start()
    stream = Streaming(served, words=400)
    served.stop(seconds=5)
    nothing_runs(served)
    stream.join(2)
    assert stream.lines[-1] != "data: [DONE]"


def test_a_second_signal_ends_all_at_once(start: Callable[..., Served]) -> None:
    served = start()
    Streaming(served, words=400)
    assert served.process is not None
    served.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    served.stop(seconds=3)  # at once, and a busy machine
    nothing_runs(served)


@pytest.mark.parametrize("moment", ["lock", "first process", "all processes", "table", "answers"])
def test_a_stop_during_start_up_ends_everything(begin: Callable[..., Served], moment: str) -> None:
    served = begin(LOG_LEVEL="DEBUG")
    moments: dict[str, Callable[[], Any]] = {
        "lock": (served.data_dir / "serve.lock").exists,
        "first process": lambda: len(served.processes()) > 1,
        "all processes": lambda: all(
            any(part in line for line in served.processes().values()) for part in PARTS
        ),
        "table": lambda: "routing table" in served.output,
        "answers": served.ready,
    }
    until(moments[moment], lambda: f"{moment}:\n{served.output}", 120)
    assert served.stop(signal.SIGTERM, seconds=5) == 0
    nothing_runs(served)
    assert "Traceback" not in served.output
    assert "Killing" not in served.output


def test_a_stop_told_to_every_process_ships_what_was_answered(start: Callable[..., Served]) -> None:
    served = start()
    until((served.data_dir / "journal" / "shipper.json").exists, "the shipper ships")
    assert served.ask().status_code == 200
    for number in served.processes():
        os.kill(number, signal.SIGTERM)
    nothing_runs(served)
    with sqlite3.connect(served.data_dir / "switchstand.sqlite3") as database:
        assert database.execute("select count(*) from monitoring_requestlog").fetchone() == (1,)
