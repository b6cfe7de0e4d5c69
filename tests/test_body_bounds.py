"""Bodies: nobody's are not waited for, and all together take no more than they may."""

import contextlib
import json
import threading
import time

import pytest

from proxy.bodies.budget import WAIT_SECONDS, BodyBudget, Intake
from proxy.errors import BodiesInFlight
from routing.compiler import current_version
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, LiveGateway, ask, until
from tests.raw_client import Answers, post
from tests.upstream import Answer

DOORS = {"fast_lane": (), "drf": (f"Origin: {ORIGIN}",)}
PAGES = ["/nothing", "/admin/login/", "/health", "/v1/models", "/v1/chat/completions/x", "/api/routes/"]
MB = 1024 * 1024
BODY = MB - 10_000  # bytes; four of them fill the budget


@pytest.fixture(scope="module")
def bounded(django_db_setup, tmp_path_factory):
    """A gateway that holds 4 MB of bodies, and waits 3 s for them."""
    from tests.conftest import TEST_DATABASE

    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "CORS_ALLOWED_ORIGINS": ORIGIN,
        "MAX_BODY_BYTES": str(MB),
        "BODY_BYTES_IN_FLIGHT": str(4 * MB),
        "PAGE_BODY_BYTES": "65536",
        "BODY_SECONDS": "3",
        "AUTH_FAILURES_PER_MINUTE": "10000",
        "DJANGO_SETTINGS_MODULE": "tests.quick_settings",
    }
    gateway = LiveGateway(tmp_path_factory.mktemp("bounded"), env).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def make_keys(bounded, transactional_db, upstream):
    def make(count):
        provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0)
        make_target(route=make_route(name="gpt"), provider=provider)
        keys = [make_key()[1] for _ in range(count)]
        bounded.wait_for_version(current_version())
        return keys

    return make


@pytest.fixture(params=sorted(DOORS))
def door_lines(request):
    return DOORS[request.param]


def large(key, *lines):
    body = ask("gpt", messages=[{"role": "user", "content": "u" * (BODY - 100)}])
    return post(key, body, *lines)


def code(body):
    return json.loads(body)["error"]["code"]


# Whose they are


@pytest.mark.parametrize("sent", [0, 10_000])
def test_who_has_no_key_is_answered_before_the_body(bounded, connect, make_keys, door_lines, sent):
    make_keys(1)
    request = large("wrong", *door_lines)
    head = request.index(b"\r\n\r\n") + 4
    clients = [connect(bounded.port) for _ in range(40)]
    for client in clients:
        client.sendall(request[: head + sent])
    for client in clients:
        assert Answers(client).next()[0] == 401
        client.sendall(request[head + sent :])  # a connection that was closed would be reset here


def test_a_pipelined_body_of_nobody_is_not_kept(bounded, connect, make_keys, upstream):
    (key,) = make_keys(1)
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=[b"data: {}\n\n", b"data: [DONE]\n\n"], gate=gate))
    client = connect(bounded.port)
    client.sendall(post(key, ask("gpt", stream=True)))
    until(lambda: upstream.calls("p1"), "the first is under way")
    client.sendall(large("wrong"))
    gate.set()
    answers = Answers(client)
    assert [answers.next()[0] for _ in range(2)] == [200, 401]


# How fast they come


def test_a_fast_beginning_buys_no_time(bounded, connect, make_keys, door_lines):
    (key,) = make_keys(1)
    client = connect(bounded.port)
    request = large(key, *door_lines)
    client.sendall(request[: BODY // 2])
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        while time.monotonic() - began < 8:
            client.send(b"u")
            time.sleep(0.3)
    status, headers, body = Answers(client).next()
    assert (status, headers["connection"], code(body)) == (408, "close", "request_timeout")


@pytest.mark.parametrize("path", PAGES)
def test_half_a_body_to_any_page_is_answered_408(bounded, connect, path):
    client = connect(bounded.port)
    client.sendall(post("k", b"x" * 1000, path=path)[:-500])
    status, headers, _ = Answers(client).next()
    assert (status, headers["connection"]) == (408, "close")


# How large they are


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
def test_a_large_body_to_any_page_is_refused_before_it_is_here(bounded, connect, path, announced):
    client = connect(bounded.port)
    if announced:
        client.sendall(post("k", b"x" * 200 * MB, path=path)[:1000])
    else:
        client.sendall(post("k", b"", "Transfer-Encoding: chunked", path=path, length=False))
        for _ in range(3):
            client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    status, _, body = Answers(client).next()
    assert (status, code(body)) == (413, "request_too_large")


def test_a_page_still_gets_its_body(bounded, connect):
    client = connect(bounded.port)
    client.sendall(post("k", b"username=a&password=b", path="/admin/login/"))
    assert Answers(client).next()[0] == 403  # no CSRF token


# How much they take together


def test_who_sends_slowly_makes_room(bounded, connect, make_keys, door_lines):
    greedy, modest = make_keys(2)
    request = large(greedy, *door_lines)
    slow = [connect(bounded.port) for _ in range(4)]
    for client in slow:
        client.sendall(request[:-5000])
    time.sleep(0.5)
    client = connect(bounded.port)
    client.sendall(large(modest, *door_lines))
    assert Answers(client).next()[0] == 200
    status, headers, body = Answers(slow[-1]).next()
    assert (status, headers["retry-after"], code(body)) == (503, "1", "bodies_in_flight")
    slow[0].sendall(request[-5000:])
    assert Answers(slow[0]).next()[0] == 200


def test_a_key_keeps_to_a_quarter_while_another_waits(bounded, connect, make_keys, upstream, door_lines):
    greedy, modest = make_keys(2)
    gate = threading.Event()
    stream = Answer(chunks=[b'data: {"choices":[]}\n\n', b"data: [DONE]\n\n"], gate=gate)
    upstream.always("p1", stream)
    busy = [connect(bounded.port) for _ in range(4)]
    body = ask("gpt", stream=True, messages=[{"role": "user", "content": "u" * (BODY - 100)}])
    for client in busy:
        client.sendall(post(greedy, body, *door_lines))
    until(lambda: len(upstream.calls("p1")) == 4, "four calls hold their bodies")
    found = []
    for key in (modest, greedy):
        client = connect(bounded.port)
        client.sendall(large(key, *door_lines))
        status, headers, refused = Answers(client).next()
        found.append((status, headers["retry-after"], code(refused)))
    assert found == [(503, "1", "bodies_in_flight")] * 2
    small = connect(bounded.port)
    small.sendall(post(modest, ask("gpt", stream=True), *door_lines))
    until(lambda: len(upstream.calls("p1")) == 5, "small requests are served meanwhile")
    gate.set()
    for client in busy:
        assert Answers(client).next()[0] == 200
    client = connect(bounded.port)
    client.sendall(post(modest, body, *door_lines))
    assert Answers(client).next()[0] == 200
    time.sleep(WAIT_SECONDS)  # until nobody counts as waiting


def test_a_client_that_leaves_gives_back_what_it_held(bounded, connect, make_keys, door_lines):
    (key,) = make_keys(1)
    request = large(key, *door_lines)
    for _ in range(3):
        gone = [connect(bounded.port) for _ in range(4)]
        for client in gone:
            client.sendall(request[:-5000])
        time.sleep(0.3)
        for client in gone:
            client.close()
    client = connect(bounded.port)
    client.sendall(request)
    assert Answers(client).next()[0] == 200


def test_a_budget_is_shared_by_whoever_waits():
    now = 100.0
    budget = BodyBudget(100, clock=lambda: now)
    first, second, third = (Intake(budget, holder, 20) for holder in ("a", "a", "b"))
    first.grow_to(60)
    first.end()
    second.grow_to(40)
    third.grow_to(20)  # evicts the second, which still arrives
    assert (budget.held, second.size) == (80, 0)
    with pytest.raises(BodiesInFlight):
        third.grow_to(60)
    with pytest.raises(BodiesInFlight):
        Intake(budget, "a", 20).grow_to(1)  # over a quarter, while b waits
    now += 3
    Intake(budget, "a", 20).grow_to(1)
    for intake in (first, second, third):
        intake.release()
        intake.release()
    assert budget.held == 1


def test_a_deadline_moves_only_with_what_comes(monkeypatch):
    now = 0.0
    monkeypatch.setattr("proxy.bodies.budget.time.perf_counter", lambda: now)
    intake = Intake(BodyBudget(10**9), "a", 20)
    intake.grow_to(9_999)
    assert intake.deadline == 20
    now = 10
    intake.grow_to(10_000)
    assert intake.deadline == 20
    now = 15
    intake.grow_to(20_000)
    assert intake.deadline == 35
    now = 34
    intake.grow_to(20_001)
    assert intake.deadline == 35
