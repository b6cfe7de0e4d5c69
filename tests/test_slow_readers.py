"""Clients that do not read what they asked for."""

import contextlib
import socket
import time

import pytest

from monitoring.models import RequestLog
from routing.compiler import current_version
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, LiveGateway, ask, until
from tests.raw_client import Answers, post
from tests.upstream import Answer, completion, events

DOORS = {"fast_lane": (), "drf": (f"Origin: {ORIGIN}",)}
TCP_ESTABLISHED = 1
CHUNK = events("x" * 65000, done=False, finish=False)[0]


@pytest.fixture(scope="module")
def impatient(django_db_setup, tmp_path_factory):
    """A gateway that waits 2 s for a client to read."""
    from tests.conftest import TEST_DATABASE

    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "CLIENT_STALL_SECONDS": "2",
        "DJANGO_SETTINGS_MODULE": "tests.quick_settings",
    }
    gateway = LiveGateway(tmp_path_factory.mktemp("impatient"), env).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def key(impatient, transactional_db, upstream):
    """Of one call at a time, to a provider with one connection."""
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0, max_connections=1)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, plaintext = make_key(parallel=1)
    impatient.wait_for_version(current_version())
    return plaintext


@pytest.fixture(params=sorted(DOORS))
def door_lines(request):
    return DOORS[request.param]


def test_who_reads_nothing_of_a_stream_loses_its_slot(impatient, connect, upstream, key, door_lines):
    upstream.script("p1", Answer(chunks=[CHUNK] * 800))
    client = connect(impatient.port, SO_RCVBUF=65536)
    client.sendall(post(key, ask("gpt", stream=True), "x-request-id: idler", *door_lines))
    until(lambda: upstream.calls("p1"), "the call is under way")
    row = until(lambda: RequestLog.objects.filter(request_id="idler").first(), "its row", 20)
    assert (row.outcome, row.stream) == ("client_gone", True)
    other = connect(impatient.port)
    other.sendall(post(key, None, *door_lines))
    assert Answers(other).next()[0] == 200


def test_who_reads_slowly_is_left_alone(impatient, connect, upstream, key, door_lines):
    upstream.script("p1", Answer(chunks=[CHUNK] * 150 + events()))
    client = connect(impatient.port, SO_RCVBUF=65536)
    client.sendall(post(key, ask("gpt", stream=True), *door_lines))
    received, began = b"", time.monotonic()
    while time.monotonic() - began < 6:
        received += client.recv(16384)
        time.sleep(0.1)
    while not received.endswith(b"0\r\n\r\n"):
        part = client.recv(2**20)
        assert part
        received += part
    assert received.count(b'xxx"}') == 150


def test_who_waits_for_a_slow_provider_is_left_alone(impatient, connect, upstream, key, door_lines):
    upstream.script("p1", Answer(chunks=events("a", "b"), gap=4))
    client = connect(impatient.port)
    client.sendall(post(key, ask("gpt", stream=True), *door_lines))
    assert Answers(client).next()[2].endswith(b"[DONE]\n\n")


def test_who_reads_nothing_of_a_whole_answer_is_hung_up_on(impatient, connect, upstream, key, door_lines):
    upstream.script("p1", Answer(body=completion("x" * 30_000_000)))
    client = connect(impatient.port, SO_RCVBUF=65536)
    client.sendall(post(key, None, *door_lines))
    until(lambda: upstream.calls("p1"), "the call is under way")
    until(lambda: client_is_gone(client), "the connection is closed", 20)
    other = connect(impatient.port)
    other.sendall(post(key, None, *door_lines))
    assert Answers(other).next()[0] == 200


def client_is_gone(client):
    """Whether the gateway has reset the connection."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_ESTABLISHED


def test_answers_that_nobody_reads_do_not_pile_up(impatient, connect):
    client = connect(impatient.port, SO_RCVBUF=65536)
    request = b"GET /api/schema HTTP/1.1\r\nhost: localhost\r\n\r\n"
    client.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while sent < 20_000_000:
            sent += client.send(request * 50)
            time.sleep(0.05)
    assert sent < 20_000_000
    until(lambda: client_is_gone(client), "the connection is closed", 20)
