"""DESIGN's error table, row by row, through both doors."""

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from django.utils import timezone

from proxy import docs
from proxy.errors import GatewayError
from routing.models import ProviderHealth
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ask, until
from tests.upstream import Answer

FIELDS = {
    "message",
    "type",
    "param",
    "code",
    "gateway_code",
    "status_code",
    "provider",
    "timestamp",
    "request_id",
}
REQUEST_ID = {"x-request-id": "error-test-1"}


def refused(answer, status, kind, code, gateway_code, *, param=None, provider=None):
    """Checks the whole shape of an error answer; returns its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-litellm-proxy"] == "true"
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == FIELDS
    found = (error["type"], error["code"], error["gateway_code"], error["param"], error["provider"])
    assert found == (kind, code, gateway_code, param, provider)
    assert error["status_code"] == status
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers.get("x-proxy-provider") == provider
    passes = status in (408, 429, 502, 503, 504) or (provider is not None and code != "model_not_found")
    assert ("x-should-retry" in answer.headers) == (not passes or code == "insufficient_quota")
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    return error["message"]


def wait_of(answer):
    """Seconds of Retry-After."""
    return int(answer.headers["retry-after"])


@pytest.fixture
def gpt(upstream, published):
    """A route gpt with one provider p1 that is never retried, and a key; returns the plaintext."""
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0, api_key="credential-p1-01")
    make_target(route=make_route(name="gpt", max_messages=3), provider=provider)
    _, key = make_key(name="app", tpm=10**9)  # so that max_tokens matters to the gateway
    published()
    return key


@pytest.fixture(params=[False, True], ids=["json", "stream"])
def stream(request):
    """Errors before the first byte look the same whether or not a stream was asked for."""
    return request.param


# 400


WRONG_BODIES = [
    (b" ", "invalid_json", None),
    (b"{", "invalid_json", None),
    (b"[]", "invalid_json", None),
    (b'{"model": "gpt", "messages": "\xff"}', "invalid_json", None),
    (ask("gpt", messages=None), "missing_field", "messages"),
    (ask("gpt", messages=[]), "missing_field", "messages"),
    (ask("gpt", messages="Hello"), "invalid_value", "messages"),
    (ask("gpt", messages=[{"content": "x"}]), "missing_field", "messages[0].role"),
    (ask("gpt", messages=[{"role": "user", "content": "x"}] * 4), "too_many_messages", "messages"),
    (ask(None), "missing_field", "model"),
    (ask(""), "missing_field", "model"),
    (ask("gpt", stream="yes"), "invalid_value", "stream"),
    (ask("gpt", max_tokens="many"), "invalid_value", "max_tokens"),
]
WRONG_HEADERS = [
    ("x-request-id", "two words"),
    ("x-litellm-timeout", "soon"),
    ("x-litellm-timeout", "0"),
    ("x-litellm-timeout", "nan"),
    ("x-litellm-num-retries", "11"),
    ("x-litellm-num-retries", "-1"),
]


def test_what_is_wrong_with_a_body_is_named(door, gpt, subtests):
    for content, code, param in WRONG_BODIES:
        with subtests.test(content=content):
            answer = door.chat(gpt, content=content, headers=REQUEST_ID)
            refused(answer, 400, "invalid_request_error", code, "VALIDATION_ERROR", param=param)
            assert answer.headers["x-request-id"] == "error-test-1"


def test_what_is_wrong_with_a_header_is_named(door, gpt, subtests):
    for name, value in WRONG_HEADERS:
        with subtests.test(name=name, value=value):
            answer = door.chat(gpt, headers={name: value})
            refused(answer, 400, "invalid_request_error", "invalid_value", "VALIDATION_ERROR", param=name)


# 401, 403, 404, 405, 413


@pytest.mark.parametrize("state", ["none", "unknown", "revoked", "expired", "team_off", "basic"])
def test_a_key_that_is_not_good_gets_401(door, gpt, published, state):
    make_key(plaintext="sk-revoked-key", enabled=False)
    make_key(plaintext="sk-expired-key", expires_at=timezone.now() - timedelta(seconds=1))
    make_key(plaintext="sk-team_off-key", team=make_team(enabled=False))
    published()
    headers = {"none": {}, "basic": {"authorization": f"Basic {gpt}"}}.get(
        state, {"authorization": f"Bearer sk-{state}-key"}
    )
    refused(
        door.chat(None, headers=headers), 401, "authentication_error", "invalid_api_key", "INVALID_API_KEY"
    )
    models = door.client.get("/v1/models", headers=headers)
    refused(models, 401, "authentication_error", "invalid_api_key", "INVALID_API_KEY")


def test_a_key_that_may_not_use_the_model_gets_403(door, gpt, published):
    _, narrow = make_key(allowed_routes=[make_route(name="other")])
    published()
    answer = door.chat(narrow)
    refused(answer, 403, "permission_error", "model_not_allowed", "ACCESS_FORBIDDEN", param="model")


def test_a_callers_own_key_gets_403_where_no_provider_takes_it(door, gpt):
    answer = door.chat(gpt, headers={"x-litellm-api-key": "own-key-0001"})
    refused(
        answer,
        403,
        "permission_error",
        "caller_key_not_allowed",
        "ACCESS_FORBIDDEN",
        param="x-litellm-api-key",
    )


def test_an_unknown_model_gets_404(door, gpt):
    answer = door.chat(gpt, "nothing")
    refused(answer, 404, "not_found_error", "model_not_found", "MODEL_NOT_AVAILABLE", param="model")
    answer = door.get("/v1/models/nothing", gpt)
    refused(answer, 404, "not_found_error", "model_not_found", "MODEL_NOT_AVAILABLE", param="model")


@pytest.mark.parametrize("path", ["/v1/nothing", "/api/llm/chat", "/nothing", "/v1/chat"])
def test_a_path_that_is_no_endpoint_gets_404_as_json(door, path):
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = door.client.request(method, path, headers=REQUEST_ID)
        refused(answer, 404, "not_found_error", "unknown_endpoint", "NOT_FOUND")
        assert answer.headers["x-request-id"] == "error-test-1"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/chat/completions", "POST"),
        ("DELETE", "/chat/completions", "POST"),
        ("POST", "/models", "GET"),
        ("POST", "/models/gpt", "GET"),
    ],
)
def test_a_wrong_method_gets_405_as_json(door, gpt, method, path, allowed):
    headers = REQUEST_ID | {"authorization": f"Bearer {gpt}"}
    for base in ("/v1", "", "/api/llm"):
        answer = door.client.request(method, base + path, headers=headers)
        refused(answer, 405, "invalid_request_error", "method_not_allowed", "VALIDATION_ERROR")
        assert allowed in answer.headers["allow"]
        assert answer.headers["x-request-id"] == "error-test-1"


@pytest.mark.parametrize("way", ["content_length", "chunked"])
def test_a_body_over_the_limit_gets_413_and_a_row(door, gpt, logged, way):
    size = 20 * 1024 * 1024 + 1
    piece = b" " * (1024 * 1024)
    content = b" " * size if way == "content_length" else (piece for _ in range(21))
    answer = door.chat(gpt, content=content, headers=REQUEST_ID)
    message = refused(answer, 413, "invalid_request_error", "request_too_large", "VALIDATION_ERROR")
    assert "20,971,520" in message
    assert answer.headers["x-request-id"] == "error-test-1"
    row = logged(answer)
    assert (row.outcome, row.status, row.error_code) == ("refused", 413, "request_too_large")


# 429: own limits


@pytest.mark.parametrize("owner", ["key", "team", "target", "provider"])
@pytest.mark.parametrize(
    ("limit", "says"),
    [({"rpm": 1}, "1 requests per minute"), ({"tpm": 60}, "60 tokens per minute")],
    ids=["rpm", "tpm"],
)
def test_own_limits_get_429_with_the_wait(door, upstream, published, owner, limit, says):
    limits = {kind: limit if kind == owner else {} for kind in ("key", "team", "target", "provider")}
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), **limits["provider"])
    make_target(route=make_route(name="gpt"), provider=provider, **limits["target"])
    _, key = make_key(team=make_team(**limits["team"]), **limits["key"])
    published()
    assert door.chat(key, max_tokens=10).status_code == 200
    answer = door.chat(key, max_tokens=10)
    message = refused(answer, 429, "rate_limit_error", "rate_limit_exceeded", "RATE_LIMIT_ERROR")
    assert says in message
    assert 1 <= wait_of(answer) <= 61
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize("owner", ["key", "team", "target", "provider"])
def test_too_many_open_requests_get_429(door, upstream, published, owner):
    limits = {
        kind: {"parallel": 1} if kind == owner else {} for kind in ("key", "team", "target", "provider")
    }
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), **limits["provider"])
    make_target(route=make_route(name="gpt"), provider=provider, **limits["target"])
    _, key = make_key(team=make_team(**limits["team"]), **limits["key"])
    published()
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=[b"data: {}\n\n", b"data: [DONE]\n\n"], gate=gate))
    with door.stream(key) as held:
        answer = door.chat(key)
        message = refused(answer, 429, "rate_limit_error", "rate_limit_exceeded", "RATE_LIMIT_ERROR")
        assert "1 requests at the same time" in message
        assert wait_of(answer) == 1
        gate.set()
        held.read()
    assert until(lambda: door.chat(key).status_code == 200, "the slot is free again")


# What the provider says


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 451])
def test_a_providers_4xx_keeps_its_status_message_and_code(door, upstream, gpt, stream, status):
    error = {"message": "temperature is too hot", "type": "x", "param": "temperature", "code": "too_hot"}
    upstream.always("p1", Answer(status=status, body={"error": error}))
    answer = door.chat(gpt, stream=stream)
    gateway_code = "MODEL_NOT_AVAILABLE" if status == 404 else "VALIDATION_ERROR"
    message = refused(
        answer, status, "invalid_request_error", "too_hot", gateway_code, param="temperature", provider="p1"
    )
    assert message == "temperature is too hot"
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b"\xff", b"[1]", b'{"error": {"message": 7}}'])
def test_a_providers_4xx_without_the_usual_body_is_named(door, upstream, gpt, stream, body):
    upstream.always("p1", Answer(status=400, body=body))
    answer = door.chat(gpt, stream=stream)
    refused(answer, 400, "invalid_request_error", "upstream_rejected", "VALIDATION_ERROR", provider="p1")


def test_429_from_every_target_keeps_the_shortest_wait(door, upstream, published, stream):
    route = make_route(name="gpt")
    for slug, wait in (("a", "7"), ("b", "3")):
        upstream.always(
            slug, Answer(status=429, body={"error": {"message": "x"}}, headers={"retry-after": wait})
        )
        make_target(route=route, provider=make_provider(slug=slug, base_url=upstream.url(slug), retries=0))
    _, key = make_key()
    published()
    answer = door.chat(key, stream=stream)
    refused(answer, 429, "rate_limit_error", "upstream_rate_limited", "RATE_LIMIT_ERROR", provider="b")
    assert wait_of(answer) == 3
    assert (len(upstream.calls("a")), len(upstream.calls("b"))) == (1, 1)


def test_a_retry_after_may_be_a_date(door, upstream, gpt):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    upstream.always("p1", Answer(status=429, body={}, headers={"retry-after": soon}))
    assert 35 <= wait_of(door.chat(gpt)) <= 40


@pytest.mark.parametrize("dialect", ["openai", "zai"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_credential_of_ours_gets_502(door, upstream, published, stream, dialect, status):
    upstream.always("p1", Answer(status=status, body={"error": {"message": "bad credential-p1-01"}}))
    provider = make_provider(
        slug="p1", base_url=upstream.url("p1"), dialect=dialect, api_key="credential-p1-01"
    )
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    answer = door.chat(key, stream=stream)
    gateway_code = "ZAI_API_ERROR" if dialect == "zai" else "UPSTREAM_ERROR"
    refused(answer, 502, "upstream_error", "upstream_auth_failed", gateway_code, provider="p1")
    assert "credential-p1-01" not in answer.text
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize(
    ("body", "status", "kind", "code", "gateway_code", "param"),
    [
        ({"code": "RATE_LIMIT"}, 429, "rate_limit_error", "upstream_rate_limited", "RATE_LIMIT_ERROR", None),
        ({"code": "INVALID_API_KEY"}, 502, "upstream_error", "upstream_auth_failed", "ZAI_API_ERROR", None),
        (
            {"code": "MODEL_NOT_AVAILABLE"},
            404,
            "not_found_error",
            "model_not_found",
            "MODEL_NOT_AVAILABLE",
            "model",
        ),
    ],
)
def test_zai_names_causes_by_code(door, upstream, published, body, status, kind, code, gateway_code, param):
    upstream.always("z", Answer(status=400, body={"error": body}))
    provider = make_provider(slug="z-ai", base_url=upstream.url("z"), dialect="zai", retries=0)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    refused(door.chat(key), status, kind, code, gateway_code, param=param, provider="z-ai")


@pytest.mark.parametrize("dialect", ["openai", "zai"])
@pytest.mark.parametrize(
    "fault",
    [
        Answer(status=500, body=b"oops"),
        Answer(status=503, body={"error": {"message": "busy"}}),
        Answer(status=302, body=b"", headers={"location": "http://127.0.0.1:9/"}),
        Answer(cut="before_headers", reset=True),
        Answer(body=b'{"choices": ['),
        Answer(body=b'{"error": {"message": "no"}}'),
        Answer(body=b"<html></html>", headers={"content-type": "text/html"}),
    ],
    ids=["500", "503", "302", "reset", "half_json", "error_in_200", "html"],
)
def test_a_provider_that_fails_gets_502_after_all_attempts(door, upstream, published, dialect, fault):
    upstream.always("p1", fault)
    provider = make_provider(
        slug="p1", base_url=upstream.url("p1"), dialect=dialect, retries=2, retry_delay=0.01
    )
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    answer = door.chat(key)
    gateway_code = "ZAI_API_ERROR" if dialect == "zai" else "UPSTREAM_ERROR"
    refused(answer, 502, "upstream_error", "upstream_error", gateway_code, provider="p1")
    assert len(upstream.calls("p1")) == 3


def test_a_provider_that_is_not_there_gets_502(door, published, stream):
    provider = make_provider(slug="p1", base_url="http://127.0.0.1:9/v1", retries=0)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    answer = door.chat(key, stream=stream)
    refused(answer, 502, "upstream_error", "upstream_error", "UPSTREAM_ERROR", provider="p1")


# 503


def test_a_full_pool_gets_503(door, upstream, published, stream):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), max_connections=1, queue_timeout=0.05)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=[b"data: {}\n\n", b"data: [DONE]\n\n"], gate=gate))
    with door.stream(key) as held:
        answer = door.chat(key, stream=stream)
        gate.set()
        held.read()
    refused(
        answer,
        503,
        "service_unavailable_error",
        "pool_exhausted",
        "CONNECTION_POOL_ERROR",
        provider="p1",
    )


def test_an_unhealthy_provider_that_refuses_gets_503(door, upstream, published, stream):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), when_unhealthy="refuse")
    now = timezone.now()
    ProviderHealth.objects.create(provider=provider, status="unhealthy", checked_at=now, changed_at=now)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    answer = door.chat(key, stream=stream)
    message = refused(answer, 503, "service_unavailable_error", "no_healthy_upstream", "SERVICE_UNAVAILABLE")
    assert "p1" in message
    assert not upstream.calls("p1")


def test_a_route_without_targets_gets_503(door, published):
    make_route(name="gpt")
    _, key = make_key()
    published()
    refused(door.chat(key), 503, "service_unavailable_error", "no_healthy_upstream", "SERVICE_UNAVAILABLE")


# 504


@pytest.mark.parametrize("who", ["route", "provider", "caller", "408"])
def test_time_that_is_up_gets_504(door, upstream, published, stream, who):
    upstream.always("p1", Answer(status=408, body={}) if who == "408" else Answer(delay=3))
    provider = make_provider(
        slug="p1", base_url=upstream.url("p1"), read_timeout=0.3 if who == "provider" else 60
    )
    route = make_route(name="gpt", deadline=0.3 if who == "route" else 600)
    make_target(route=route, provider=provider)
    _, key = make_key()
    published()
    started = time.monotonic()
    timeout = {"route": "9", "caller": "0.3"}.get(who)
    answer = door.chat(key, stream=stream, headers={"x-litellm-timeout": timeout} if timeout else {})
    assert time.monotonic() - started < 1.5
    by_provider = "p1" if who in ("provider", "408") else None
    message = refused(answer, 504, "timeout_error", "upstream_timeout", "TIMEOUT", provider=by_provider)
    assert by_provider or "0.3 s" in message


# The document


def test_the_document_of_errors_is_not_stale():
    assert docs.PATH.read_text() == docs.updated(docs.PATH.read_text()), (
        "docs/errors.md is stale: run python -m proxy.docs"
    )


def test_the_document_has_every_error_class():
    text = docs.PATH.read_text()
    for error in docs.error_classes():
        assert f"| {error.status}" in text
        assert error.code in text
        assert error.cause in text
    assert GatewayError in docs.error_classes()


def test_no_two_error_classes_look_alike():
    rows = [(error.status, error.code) for error in docs.error_classes()]
    assert len(set(rows)) == len(rows)


def test_a_host_that_is_not_allowed_gets_400_as_json(live):
    answer = plain.get(f"{live.url}/admin/", headers={"host": "evil.example"})
    refused(answer, 400, "invalid_request_error", "invalid_host", "VALIDATION_ERROR", param="host")
