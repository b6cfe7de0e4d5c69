"""What health, readiness and metrics tell whom, and that probes may call by any address."""

import pytest

from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider
from tests.live import LiveGateway, until
from tests.stack import AdminBrowser

MASTER = "sk-master-of-these-tests-0123"
DETAILS = {"draining", "table_version", "table_checked_seconds_ago", "table_problem", "limits", "journal"}


@pytest.fixture
def hidden(tmp_path, transactional_db):
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "HEALTH_PROVIDERS": "hidden", "MASTER_KEY": MASTER}
    live = LiveGateway(tmp_path, env).start()
    yield live
    live.stop()


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_strangers_are_told_which_checks_fail_and_nothing_else(live, published, door):
    published()
    for headers in ({}, bearer("sk-wrong"), {"authorization": "Bearer"}, {"cookie": "sessionid=made-up"}):
        answer = door.client.get("/health/readiness", headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "failed": []})
        health = door.client.get("/health", headers=headers).json()
        assert set(health) == {"status", "timestamp", "service", "providers"}


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_gateway_key_opens_the_details(live, published, door, header):
    _, plaintext = make_key()
    _, revoked = make_key(enabled=False)
    published()

    def told(key):
        value = f"Bearer {key}" if header == "authorization" else key
        return set(door.client.get("/health/readiness", headers={header: value}).json())

    assert told(plaintext) >= DETAILS
    assert told(revoked) == {"status", "failed"}


def test_tokens_and_staff_see_what_strangers_do_not(hidden, django_user_model):
    make_provider(slug="our-secret-vendor")
    until(lambda: hidden.readiness()["table_version"] > 0, "the table is served")
    until(lambda: providers(hidden, bearer(MASTER)), "the provider is served")
    assert providers(hidden, {}) == providers(hidden, bearer("sk-wrong")) == {}
    django_user_model.objects.create_superuser("admin", password="of-this-test")
    django_user_model.objects.create_user("caller", password="of-this-test")
    shown = {"our-secret-vendor": "healthy"}
    for headers in (bearer(MASTER), hidden.token, session(hidden, "admin")):
        assert providers(hidden, headers) == shown
        assert set(plain.get(f"{hidden.url}/health/readiness", headers=headers).json()) >= DETAILS


def providers(gateway, headers):
    return plain.get(f"{gateway.url}/health", headers=headers).json()["providers"]


def session(gateway, user):
    browser = AdminBrowser(gateway.url, "of-this-test")
    return {"cookie": f"sessionid={browser.client.cookies['sessionid']}"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/health/liveliness", 200),
        ("/health/readiness", 200),
        ("/metrics", 200),
        ("/v1/models", 200),
        ("/v1/nothing", 404),
        ("/nothing", 404),
        ("/", 400),
        ("/admin/", 400),
        ("/admin/login/", 400),
        ("/api/docs", 400),
        ("/api/explain", 400),
        ("/status", 400),
    ],
)
def test_only_pages_look_at_the_host(live, published, path, status):
    _, plaintext = make_key()
    published()
    credentials = live.token if path == "/metrics" else bearer(plaintext)
    answer = plain.get(live.url + path, headers={"host": "10.42.8.201:4000"} | credentials)
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["error"]["code"] == "invalid_host"
