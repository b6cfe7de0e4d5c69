"""What a web process answers between SIGTERM and its end."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.upstream import Answer, FakeUpstream, events

REQUEST = b"GET /health/readiness HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def gateway(tmp_path: Path, transactional_db: None) -> Iterator[Callable[[int], LiveGateway]]:
    """Gateways of the test's own, since they are stopped; by DRAIN_NOTICE_SECONDS."""
    started: list[LiveGateway] = []

    def start(notice: int) -> LiveGateway:
        env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "DRAIN_NOTICE_SECONDS": str(notice)}
        started.append(LiveGateway(tmp_path, env).start())
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def key(upstream: FakeUpstream) -> str:
    provider = make_provider(slug="p", base_url=upstream.url("p"), health_check_enabled=False)
    make_target(route=make_route(name="gpt"), provider=provider)
    return make_key()[1]


def connect(gateway: LiveGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=5)


def answer(connection: socket.socket) -> tuple[int, Any]:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
        if received.endswith(b"}"):
            break
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def tell_to_stop(gateway: LiveGateway) -> None:
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)


def exit_code(gateway: LiveGateway) -> int:
    assert gateway.process is not None
    return gateway.process.wait(10)


@pytest.mark.parametrize("door_name", ["fast_lane", "drf"])
def test_what_has_begun_ends_whole_and_idle_connections_are_closed(
    gateway: Callable[[int], LiveGateway], upstream: FakeUpstream, key: str, door_name: str
) -> None:
    gate = threading.Event()
    upstream.script("p", Answer(chunks=events("one", "two", usage=True), gate=gate))
    live = gateway(0)
    idle, begun = connect(live), connect(live)
    idle.sendall(REQUEST)
    assert answer(idle)[0] == 200
    with Door(door_name, live.url).stream(key) as stream:
        lines = stream.iter_lines()
        assert "one" in next(lines)
        begun.sendall(REQUEST[:20])
        time.sleep(0.1)  # the server has read it
        tell_to_stop(live)
        # Without a notice nobody new can ask any more: what balances the load sees that at once.
        until(lambda: refused(live), "new connections are refused", 3)
        assert idle.recv(100) == b""
        begun.sendall(REQUEST[20:])
        status, content = answer(begun)
        assert (status, content["failed"]) == (503, ["draining"])
        gate.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert exit_code(live) == 0


def test_readiness_says_draining_at_once_and_calls_are_served_until_the_notice_is_over(
    gateway: Callable[[int], LiveGateway], upstream: FakeUpstream, key: str
) -> None:
    live = gateway(3)
    door = Door("fast_lane", live.url)
    assert door.chat(key).status_code == 200
    idle = connect(live)
    idle.sendall(REQUEST)
    assert answer(idle)[0] == 200
    told = time.monotonic()
    tell_to_stop(live)
    until(lambda: live.readiness()["draining"], "readiness says draining", 1)
    idle.sendall(REQUEST)
    status, content = answer(idle)
    assert (status, content["failed"]) == (503, ["draining"])
    assert plain.get(f"{live.url}/health").status_code == 200
    assert door.chat(key).status_code == 200
    assert exit_code(live) == 0
    assert 2.5 < time.monotonic() - told < 8


def refused(gateway: LiveGateway) -> bool:
    try:
        connect(gateway).close()
    except ConnectionRefusedError:
        return True
    return False
