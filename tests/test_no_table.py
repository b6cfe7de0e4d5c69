"""Before there is a routing table nobody can tell whose key it is: 503 with Retry-After, never a refusal."""

import pytest

from tests.live import Door, LiveGateway, free_port
from tests.plain import get

MASTER = "sk-master-0123456789abcdef"


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """A web process whose database is away."""
    directory = tmp_path_factory.mktemp("blind")
    env = {
        "DATABASE_URL": f"postgres://nobody@127.0.0.1:{free_port()}/nothing",
        "MASTER_KEY": MASTER,
        "DJANGO_SETTINGS_MODULE": "tests.quick_settings",
    }
    gateway = LiveGateway(directory, env).start()
    yield gateway
    gateway.stop()


@pytest.fixture(params=["fast_lane", "drf"])
def door(request, blind):
    return Door(request.param, blind.url)


def assert_not_ready(answer):
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "not_ready"), answer.text
    assert (error["type"], error["gateway_code"]) == ("service_unavailable_error", "SERVICE_UNAVAILABLE")
    assert answer.headers["retry-after"] == "2"
    assert "www-authenticate" not in answer.headers


KEYS = {"the master key": MASTER, "any other": "sk-of-somebody", "none": None, "too long": "x" * 9000}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions", "/api/llm/chat/completions"])
def test_a_call_before_the_first_table_is_told_to_come_back(door, key, path):
    assert_not_ready(door.chat(key, path=path))
    assert_not_ready(door.chat(key, path=path, stream=True))
    assert_not_ready(door.chat(key, path=path, headers={"x-litellm-api-key": "sk-own"}))


def test_a_large_body_is_told_before_it_is_read(door):
    assert_not_ready(door.chat(MASTER, filler="x" * 300_000))


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/models", "/v1/models/gpt", "/key/info", "/spend/logs", "/v1/usage"],
)
def test_everything_that_needs_the_table_is_told_the_same(blind, path):
    for headers in ({"authorization": f"Bearer {MASTER}"}, {"x-api-key": "sk-of-somebody"}, {}):
        assert_not_ready(get(f"{blind.url}{path}", headers=headers))


@pytest.mark.parametrize("headers", [{}, {"authorization": f"Bearer {MASTER}"}, {"x-api-key": "sk-somebody"}])
def test_health_says_so_and_asks_for_no_restart(blind, headers):
    health = get(f"{blind.url}/health", headers=headers)
    assert (health.status_code, health.json()["status"]) == (200, "unhealthy")
    readiness = get(f"{blind.url}/health/readiness", headers=headers)
    assert (readiness.status_code, readiness.json()["status"]) == (503, "not ready")
    assert readiness.headers["retry-after"] == "2"


def test_tries_before_the_first_table_are_no_failed_log_ins(blind):
    door = Door("fast_lane", blind.url)
    for _ in range(70):
        assert_not_ready(door.chat("sk-wrong"))
