"""Workers tell each other through Redis which targets are out; without Redis each serves alone."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from routing.compiler import current_version
from routing.models import ApiKey, GatewaySettings, RouteTarget
from tests.conftest import TEST_DATABASE
from tests.environment import DATA_DIR
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.optional import needs
from tests.upstream import Answer

pytestmark = needs("Redis")


@pytest.fixture(scope="module")
def pair(redis_server, django_db_setup):
    """Two web processes with one database and one Redis."""
    started = []
    for number in range(2):
        directory = DATA_DIR / f"sharing-{number}"
        directory.mkdir(exist_ok=True)
        env = {
            "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
            "REDIS_URL": redis_server.url,
            "CELERY_BROKER_URL": "memory://",
        }
        started.append(LiveGateway(directory, env).start())
    yield started
    for gateway in started:
        gateway.stop()


@pytest.fixture
def both(pair, upstream, redis_server, transactional_db):
    """A function that asks gateway 0 or 1, and the key; targets a, then b."""
    route = make_route(name="gpt", strategy="ordered")
    for priority, slug in enumerate(("a", "b")):
        provider = make_provider(
            slug=slug, base_url=upstream.url(slug), retries=0, health_check_enabled=False
        )
        make_target(route=route, provider=provider, upstream_model=slug, priority=priority)
    _, key = make_key()
    GatewaySettings.objects.create(pk=1, cooldown_seconds=3)
    for gateway in pair:
        gateway.wait_for_version(current_version())

    def served(number: int) -> str:
        answer = Door("fast_lane", pair[number].url).chat(key)
        assert answer.status_code == 200
        slug: str = answer.headers["x-proxy-provider"]
        return slug

    return served


def within(seconds: float, condition: Callable[[], bool], what: str) -> None:
    started = time.monotonic()
    until(condition, what, seconds)
    assert time.monotonic() - started < seconds


def test_a_circuit_that_opens_in_one_worker_is_open_in_the_other_within_a_second(both, upstream):
    upstream.always("a", Answer(status=500))
    for _ in range(3):
        both(0)
    calls = len(upstream.calls("a"))
    time.sleep(0.9)
    assert [both(1) for _ in range(5)] == ["b"] * 5
    assert len(upstream.calls("a")) == calls


def test_a_pause_that_a_429_asked_for_holds_in_both(both, upstream):
    upstream.script("a", Answer(status=429, headers={"retry-after": "30"}))
    both(0)
    time.sleep(0.9)
    assert [both(1) for _ in range(3)] == ["b"] * 3
    assert len(upstream.calls("a")) == 1


def test_a_circuit_that_closes_in_one_worker_closes_in_the_other(both, upstream):
    upstream.always("a", Answer(status=500))
    for _ in range(3):
        both(0)
    time.sleep(0.9)
    upstream.always("a", Answer())
    until(lambda: both(0) == "a", "gateway 0 tries it again", 5)
    within(1.2, lambda: both(1) == "a", "gateway 1 serves from it too")


def test_half_open_one_request_tries_it_also_while_limits_are_counted_in_redis(both, upstream):
    ApiKey.objects.update(rpm=100_000)
    upstream.always("a", Answer(status=500))
    for _ in range(3):
        both(0)
    time.sleep(3.1)
    calls = len(upstream.calls("a"))
    upstream.always("a", Answer(delay=2))
    with ThreadPoolExecutor(16) as pool:
        served = list(pool.map(both, [0] * 16))
    assert Counter(served) == {"b": 15, "a": 1}
    assert len(upstream.calls("a")) == calls + 1


def test_a_reset_reaches_all_workers_from_any_process(both, upstream, pair):
    from proxy.explain import live as live_state

    upstream.script("a", Answer(status=429, headers={"retry-after": "60"}))
    both(0)
    time.sleep(0.9)
    assert both(1) == "b"
    target = RouteTarget.objects.get(provider__slug="a")
    shell = f"from proxy.explain.live import reset; assert reset({target.pk})"
    pair[1].manage("shell", "-c", shell)
    within(1.2, lambda: both(0) == both(1) == "a", "both serve from it again")
    assert live_state.target_views() == {}  # this process has no Redis


def test_the_admin_and_commands_see_all_workers(both, upstream, pair):
    for _ in range(4):
        both(0)
    for _ in range(3):
        both(1)
    target = RouteTarget.objects.get(provider__slug="a")
    shell = f"from proxy.explain.live import target_views; print(target_views()[{target.pk}].requests)"

    def counted():
        return pair[0].manage("shell", "-v", "0", "-c", shell, check=False).stdout.strip() == "7"

    until(counted, "the requests of both workers are added up", 8)


def test_with_redis_away_each_worker_judges_by_itself(both, upstream, redis_server):
    redis_server.stop()
    try:
        upstream.always("a", Answer(status=500))
        assert [both(0) for _ in range(5)] == ["b"] * 5
        assert len(upstream.calls("a")) == 3
        assert [both(1) for _ in range(5)] == ["b"] * 5
        assert len(upstream.calls("a")) == 6
    finally:
        redis_server.start()


def test_a_frozen_redis_delays_no_request(both, upstream, redis_server):
    redis_server.freeze()
    try:
        started = time.monotonic()
        for _ in range(20):
            both(0)
        assert time.monotonic() - started < 4  # the frozen Redis would cost one deadline per request
    finally:
        redis_server.thaw()
