"""How many connections clients may have, and what happens at the bound."""

import contextlib
import os
import resource
import socket
import threading
import time

import pytest

from routing.compiler import current_version
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import LiveGateway, ask, until
from tests.raw_client import GET_HEALTH, Answers, post
from tests.upstream import Answer


@pytest.fixture
def start(tmp_path, transactional_db):
    started = []

    def make(**env):
        common = {
            "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
            "DJANGO_SETTINGS_MODULE": "tests.quick_settings",
        }
        started.append(LiveGateway(tmp_path, common | env).start())
        return started[-1]

    yield make
    for gateway in started:
        gateway.stop()


def is_open(client):
    client.setblocking(False)
    try:
        return client.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    finally:
        client.settimeout(10)


def answer(client):
    client.sendall(GET_HEALTH)
    return Answers(client).next()[0]


def test_the_oldest_idle_connections_of_an_address_go(start, connect):
    gateway = start(IDLE_CONNECTIONS_PER_ADDRESS="10")
    clients = []
    for _ in range(30):
        clients.append(connect(gateway.port))
        assert answer(clients[-1]) == 200
    until(lambda: sum(map(is_open, clients)) <= 10, "no more than ten are left")
    assert [is_open(client) for client in clients] == [False] * 20 + [True] * 10
    assert [answer(client) for client in clients[-10:]] == [200] * 10


def test_a_proxy_in_front_has_the_connections_of_all_its_clients(start, connect):
    gateway = start(IDLE_CONNECTIONS_PER_ADDRESS="10", TRUSTED_PROXIES="127.0.0.0/8")
    clients = [connect(gateway.port) for _ in range(30)]
    assert [answer(client) for client in clients] == [200] * 30
    time.sleep(2.5)
    assert all(map(is_open, clients))


def test_at_the_bound_idle_connections_go_first_and_busy_ones_never(start, connect, upstream):
    gate = threading.Event()
    make_target(
        route=make_route(name="gpt"),
        provider=make_provider(slug="p1", base_url=upstream.url("p1"), retries=0, max_connections=100),
    )
    _, key = make_key()
    gateway = start(CLIENT_CONNECTIONS="30")
    gateway.wait_for_version(current_version())
    upstream.always("p1", Answer(chunks=[b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"], gate=gate))
    idle = [connect(gateway.port) for _ in range(25)]
    assert [answer(client) for client in idle[:3]] == [200] * 3
    busy = []
    for number in range(30):
        busy.append(connect(gateway.port))
        busy[-1].sendall(post(key, ask("gpt", stream=True)))
        until(lambda number=number: len(upstream.calls("p1")) == number + 1, "it is served")
    until(lambda: not any(map(is_open, idle)), "idle ones made room")
    status, headers, _ = Answers(connect(gateway.port)).next()
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    gate.set()
    assert [Answers(client).next()[0] for client in busy] == [200] * 30
    assert answer(busy[0]) == 200


def test_a_process_out_of_files_neither_spins_nor_logs_nor_stops_to_listen(start):
    gateway = start()
    pid = gateway.process.pid
    in_use = len(os.listdir(f"/proc/{pid}/fd"))
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 20, hard))
    before, clients = len(gateway.log.read_text()), []
    for _ in range(100):
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            client.connect(("127.0.0.1", gateway.port))
        clients.append(client)
    spent = cpu_seconds(pid)
    time.sleep(2)
    assert cpu_seconds(pid) - spent < 1
    assert len(gateway.log.read_text()[before:].splitlines()) < 10
    for client in clients:
        client.close()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 200, hard))
    until(gateway.answers, "it answers again")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
