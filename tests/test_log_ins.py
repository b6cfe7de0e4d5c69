"""Log-ins: one hash at a time beside the data plane, in turns, slowed by failures, and nobody locked out."""

import asyncio
import contextlib
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway_project.passwords import NICENESS
from proxy.access.failed_auth import FailedAuth
from proxy.access.log_in_line import MOST_OF_ADDRESS, Attempt, LogInLine
from proxy.errors import RateLimited
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.optional import needs

PASSWORD = "right-password-of-this-test"
MASTER = "sk-master-of-these-tests-0123"


def log_in(url, password, name="admin", browser=None):
    """One POST of the log-in form; `browser` is the cookie that tells browsers apart."""
    browser = browser or secrets.token_hex(16)
    form = {"username": name, "password": password, "csrfmiddlewaretoken": browser, "next": "/admin/"}
    headers = {"cookie": f"csrftoken={browser}", "accept": "text/html"}
    return plain.post(f"{url}/admin/login/", data=form, headers=headers, timeout=60)


@pytest.fixture
def guarded(tmp_path, transactional_db, django_user_model, upstream):
    """(a gateway of its own, a key); the user admin has PASSWORD."""
    django_user_model.objects.create_superuser("admin", password=PASSWORD)
    make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("p")))
    _, key = make_key()
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "MASTER_KEY": MASTER}
    live = LiveGateway(tmp_path, env).start()
    yield live, key
    live.stop()


def priorities(gateway):
    """Of all threads of the web process."""
    found = []
    for task in Path(f"/proc/{gateway.process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.append(int((task / "stat").read_text().rpartition(")")[2].split()[16]))
    return found


def test_sixty_log_ins_at_once_keep_no_call_and_no_session_waiting(guarded):
    live, key = guarded
    session = {"cookie": f"sessionid={log_in(live.url, PASSWORD).cookies['sessionid']}"}
    door = Door("fast_lane", live.url)
    before = len(priorities(live))
    with ThreadPoolExecutor(60) as pool:
        attempts = [pool.submit(log_in, live.url, "wrong") for _ in range(60)]
        threads, calls = [], 0
        while not all(attempt.done() for attempt in attempts):
            assert door.chat(key).status_code == 200
            calls += 1
            threads.append(priorities(live))
            assert plain.get(f"{live.url}/admin/", headers=session, timeout=30).status_code == 200
    statuses = [attempt.result().status_code for attempt in attempts]
    assert set(statuses) == {200, 429}
    # Twenty of an address and ten of a name there are free, then one comes each second, for ten seconds.
    assert 1 <= statuses.count(200) <= 24
    assert all(one.count(NICENESS) == 1 for one in threads), "one thread hashes, and yields to all others"
    # Django gives each page's request a thread of its own; there are never more than those that came.
    assert max(map(len, threads)) <= before + 60
    refused = next(a.result() for a in attempts if a.result().status_code == 429)
    assert refused.headers["retry-after"] == "5"
    assert "try again" in refused.text


def test_a_right_password_gets_in_within_a_minute_beside_an_attack_from_its_own_address(guarded):
    """As behind a proxy that is not in TRUSTED_PROXIES."""
    live, _ = guarded
    over = threading.Event()

    def attack(browser):
        while not over.is_set():
            log_in(live.url, "wrong", browser=browser)

    with ThreadPoolExecutor(25) as pool:
        try:
            running = [pool.submit(attack, secrets.token_hex(16)) for _ in range(25)]
            time.sleep(3)
            began = time.monotonic()
            until(lambda: log_in(live.url, PASSWORD).status_code == 302, "the right one gets in", 60)
            assert time.monotonic() - began < 60
        finally:
            over.set()
    assert all(attack.done() for attack in running)


def test_one_counter_for_keys_and_tokens_that_never_keeps_the_right_ones_out(tmp_path, transactional_db):
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "MASTER_KEY": MASTER,
        "AUTH_FAILURES_PER_MINUTE": "4",
    }
    live = LiveGateway(tmp_path, env).start()
    try:

        def asked(path, token):
            return plain.get(live.url + path, headers={"authorization": f"Bearer {token}"}).status_code

        paths = ["/metrics", "/api/explain?model=gpt", "/api/usage", "/v1/models"]
        assert [asked(path, "wrong") for path in paths] == [401, 401, 401, 401]
        assert [asked(path, "wrong") for path in paths] == [429, 429, 429, 429]
        assert asked("/metrics", MASTER) == asked("/api/usage", MASTER) == asked("/v1/models", MASTER) == 200
        assert asked("/health/readiness", "wrong") == 200, "probes are answered, as strangers"
    finally:
        live.stop()


@needs("Redis")
def test_web_processes_count_together_where_there_is_redis(tmp_path, transactional_db, redis_server):
    redis_server.client.flushall()
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "REDIS_URL": redis_server.url,
        "CELERY_BROKER_URL": "memory://",
        "AUTH_FAILURES_PER_MINUTE": "3",
    }
    pair = [LiveGateway(tmp_path / name, env) for name in ("a", "b")]
    for gateway in pair:
        gateway.data_dir.mkdir()
        gateway.start()
    try:
        doors = [Door("fast_lane", gateway.url) for gateway in pair]
        for gateway in pair:
            until(lambda gateway=gateway: gateway.readiness()["limits"]["problem"] is None, "Redis counts")
        assert [doors[0].chat("sk-wrong").status_code for _ in range(3)] == [401] * 3
        until(lambda: redis_server.client.keys("*failed*"), "Redis knows of it")
        assert doors[1].chat("sk-wrong").status_code == 401  # asks Redis, and waits for no answer
        until(lambda: doors[1].chat("sk-wrong").status_code == 429, "the other one counts the same", 1)
    finally:
        for gateway in pair:
            gateway.stop()


# The line itself


def served(attempts, failed=None):
    """The order in which attempts that come together have their turns; refused ones are left out."""
    order = []

    async def one(line, attempt):
        try:
            async with line.turn(attempt):
                order.append(attempt)
                await asyncio.sleep(0)
        except RateLimited:
            pass

    async def all_of_them():
        line = LogInLine(failed or FailedAuth(60))
        await asyncio.gather(*(one(line, attempt) for attempt in attempts))

    asyncio.run(all_of_them())
    return order


def test_turns_go_round_addresses_and_browsers():
    crowd = [Attempt("203.0.113.5", "one browser", "admin") for _ in range(5)]
    beside = Attempt("203.0.113.5", "another", "admin")
    elsewhere = Attempt("198.51.100.7", "", "admin")
    order = served([*crowd, beside, elsewhere])
    assert order[:3] == [crowd[0], elsewhere, beside]
    assert order[3:] == crowd[1:]


def test_a_crowd_keeps_nobody_else_out_of_the_line():
    crowd = [Attempt("203.0.113.5", "one browser", "admin") for _ in range(MOST_OF_ADDRESS + 20)]
    beside = Attempt("203.0.113.5", "another", "admin")
    order = served([*crowd, beside])
    assert beside in order
    assert len(order) <= MOST_OF_ADDRESS + 1


def test_a_name_alone_is_slowed_and_never_locked():
    failed = FailedAuth(60)
    attempts = [Attempt(f"203.0.113.{number}", "", "admin") for number in range(4)]
    for _ in range(1000):
        failed.add(attempts[0].name)
    began = time.monotonic()
    assert served(attempts, failed) == attempts
    assert time.monotonic() - began >= 1.5
