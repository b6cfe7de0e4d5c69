"""Sentry, OTLP and logs, each with a real sink: no credential of a request gets there, also from a fault."""

import json

import pytest

from monitoring.crash_reports import Reports
from tests import plain
from tests.collector import Collector
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, LiveGateway, ask, until
from tests.sentry_sink import SentrySink
from tests.upstream import Answer

MIDDLE = "Gm4middle7Middle"
KEY = f"sk-0123456789-{MIDDLE}-tail"
CARRIERS = (
    "authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "x-litellm-api-key",
    "cookie",
    "proxy-authorization",
    "x-custom-secret",
)


class Raw(Collector):
    """Keeps what came as it came, too."""

    def __init__(self):
        super().__init__()
        self.bodies = []

    def take(self, path, body):
        self.bodies.append(body)
        super().take(path, body)


@pytest.fixture
def sentry():
    sink = SentrySink()
    yield sink
    sink.close()


@pytest.fixture
def collector():
    found = Raw()
    yield found
    found.close()


@pytest.fixture(params=["console", "json"])
def crashing(request, tmp_path, transactional_db, upstream, sentry, collector):
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "DJANGO_SETTINGS_MODULE": "tests.crashing_settings",
        "LOG_FORMAT": request.param,
        "LOG_LEVEL": "DEBUG",
        "LOG_REQUESTS": "all",
        "SENTRY_DSN": sentry.dsn,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "MASTER_KEY": f"{MIDDLE}-master-key-0123456789",
    }
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    make_key(name="app", plaintext=KEY)
    upstream.always("p1", Answer(status=401, body={"error": {"message": KEY}}))
    gateway = LiveGateway(tmp_path, env).start()
    yield gateway
    gateway.stop()


def test_no_credential_of_a_request_reaches_sentry_otlp_or_a_log(crashing, sentry, collector):
    good = {"authorization": f"Bearer {KEY}", "x-visible": "seen"}
    content = ask("gpt", user=KEY, api_key=KEY)
    for origin in ({}, {"origin": ORIGIN}):
        for carrier in CARRIERS:
            text = f"Bearer {KEY}" if carrier.endswith("authorization") else KEY
            headers = origin | good | {carrier: text}
            for path in ("/v1/chat/completions", "/crash"):
                url = f"{crashing.url}{path}?key={KEY}&api_key={KEY}"
                assert plain.post(url, content=content, headers=headers, timeout=20).status_code >= 400
        master = origin | {"authorization": f"Bearer {MIDDLE}-master-key-0123456789"}
        plain.post(f"{crashing.url}/v1/chat/completions", content=content, headers=master, timeout=20)

    told = lambda: "".join(sentry.envelopes)  # noqa: E731
    until(lambda: "no route for" in told() and "no page for" in told(), "the faults are reported", 30)
    until(lambda: collector.bodies, "spans arrive", 30)
    crashing.stop()
    assert "/crash" in told()
    assert MIDDLE not in told()
    assert [body for body in collector.bodies if MIDDLE.encode() in body] == []
    log = crashing.log.read_text()
    assert "no route for" in log
    assert MIDDLE not in log


EVENT = {
    "event_id": "1",
    "request": {
        "url": f"http://user:{KEY}@host/v1/x?key={KEY}",
        "method": "POST",
        "query_string": "key=opaque-without-a-pattern",
        "cookies": {"session": KEY},
        "data": {"messages": KEY},
        "env": {"REMOTE_ADDR": KEY},
        "headers": {"Api-Key": "opaque-in-a-header", "User-Agent": "me", "X-Made-Up": KEY},
    },
    "user": {"id": KEY},
    "extra": {"sys.argv": ["manage.py", "create_key", "--key", KEY]},
    "contexts": {
        "runtime": {"name": "CPython"},
        "made-up": {"a": KEY},
        "trace": {"op": "x", "data": {"a": KEY}},
    },
    "logentry": {"message": "a %s", "params": [KEY]},
    "breadcrumbs": {"values": [{"message": f"GET /x?api_key=opaque-in-a-crumb {KEY}", "data": {"url": KEY}}]},
    "spans": [{"op": "http", "description": f"GET http://h/?key={KEY}", "data": {"http.query": KEY}}],
    "exception": {
        "values": [
            {
                "value": "it was opaque-in-a-header and opaque-without-a-pattern and the-master-key",
                "stacktrace": {"frames": [{"function": "f", "vars": {"key": KEY}}]},
            }
        ]
    },
    "a-later-sdk-adds-this": KEY,
}


@pytest.mark.parametrize("way", ["before_send", "before_send_transaction", "before_breadcrumb"])
def test_only_what_is_listed_leaves(way):
    from monitoring.crash_reports import options

    filters = options(Reports(["the-master-key", None, "short"]))
    event = EVENT if way != "before_breadcrumb" else EVENT["breadcrumbs"]["values"][0]
    text = json.dumps(filters[way](event, {}))
    for secret in (MIDDLE, "opaque", "the-master-key", "create_key"):
        assert secret not in text
    if way != "before_breadcrumb":
        found = json.loads(text)
        assert found["request"] == {
            "method": "POST",
            "url": "http://host/v1/x",
            "headers": {"User-Agent": "me"},
        }
        assert found["exception"]["values"][0]["stacktrace"]["frames"] == [{"function": "f"}]
