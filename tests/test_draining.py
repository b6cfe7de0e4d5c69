"""What a web process answers between SIGTERM and its end."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.upstream import Answer, FakeUpstream, events

REQUEST = b"GET /health/readiness HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def gateway(tmp_path: Path, transactional_db: None) -> Iterator[LiveGateway]:
    """One of the test's own, since it is stopped."""
    started = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"})
    yield started
    started.stop()


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


@pytest.mark.parametrize("door_name", ["fast_lane", "drf"])
def test_readiness_says_draining_at_once_while_a_stream_ends(
    gateway: LiveGateway, upstream: FakeUpstream, key: str, door_name: str
) -> None:
    gate = threading.Event()
    upstream.script("p", Answer(chunks=events("one", "two", usage=True), gate=gate))
    gateway.start()
    idle, begun = connect(gateway), connect(gateway)
    idle.sendall(REQUEST)
    assert answer(idle)[0] == 200
    with Door(door_name, gateway.url).stream(key) as stream:
        lines = stream.iter_lines()
        assert "one" in next(lines)
        begun.sendall(REQUEST[:20])
        time.sleep(0.1)  # the server has read it
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        until(lambda: refused(gateway), "new connections are refused", 2)
        # The server closes idle connections: what asks over one sees at once that it must go elsewhere.
        assert idle.recv(100) == b""
        begun.sendall(REQUEST[20:])
        status, content = answer(begun)
        assert status == 503
        assert content["draining"] is True
        gate.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert gateway.process.wait(5) == 0


def refused(gateway: LiveGateway) -> bool:
    try:
        connect(gateway).close()
    except ConnectionRefusedError:
        return True
    return False
