"""Chat completions through both doors, against a real provider on loopback."""

import json
import threading
import time

import pytest

from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ask, until
from tests.upstream import USAGE, Answer, completion, events

BASES = ["/v1/chat/completions", "/chat/completions", "/api/llm/chat/completions"]


@pytest.fixture
def gpt(upstream, published):
    """A route gpt with one provider p1, and a key; returns the plaintext."""
    provider = make_provider(
        slug="p1", base_url=upstream.url("p1"), api_key="sk-p1-credential-0001", retry_delay=0.01
    )
    make_target(route=make_route(name="gpt"), provider=provider, upstream_model="upstream-gpt")
    _, key = make_key(name="app")
    published()
    return key


@pytest.mark.parametrize("path", BASES)
def test_an_answer_is_passed_through_byte_for_byte(door, upstream, gpt, path):
    body = b'{"id": "x",  "choices": [], "usage": null, "extra": {"kept":1.50}}'
    upstream.always("p1", Answer(body=body))
    answer = door.chat(gpt, path=path)
    assert (answer.status_code, answer.content) == (200, body)
    assert answer.headers["content-type"] == "application/json"


def test_the_upstream_sees_its_own_model_and_credential_and_all_other_fields_untouched(door, upstream, gpt):
    content = (
        b'{"model":"gpt","messages":[{"role":"user","content":"\\u00e9 <b>"}],'
        b'"seed":12345678901234567890,"x":{"a":1.50}}'
    )
    door.chat(gpt, content=content)
    seen = upstream.calls("p1")[0]
    assert seen.body == content.replace(b'"gpt"', b'"upstream-gpt"', 1)
    assert seen.headers["authorization"] == "Bearer sk-p1-credential-0001"
    assert gpt not in str(seen.headers)
    assert seen.path == "/p1/v1/chat/completions"


def test_answers_carry_the_documented_headers(door, gpt):
    answer = door.chat(gpt, headers={"x-request-id": "my-id-1"})
    headers = answer.headers
    assert headers["x-request-id"] == "my-id-1"
    assert headers["x-litellm-proxy"] == "true"
    assert headers["x-proxy-provider"] == "p1"
    assert headers["x-litellm-model-group"] == "gpt"
    assert headers["x-litellm-attempted-retries"] == "0"
    assert headers["x-litellm-attempted-fallbacks"] == "0"
    assert float(headers["x-litellm-overhead-duration-ms"]) >= 0
    assert len(headers["x-litellm-call-id"]) == 36


def test_a_stream_is_relayed_byte_for_byte(door, upstream, gpt):
    chunks = [*events("Hel", "lo", done=False), b": comment\n\n", b"data: [DO", b"NE]\n\n"]
    upstream.always("p1", Answer(chunks=chunks))
    with door.stream(gpt) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.read() == b"".join(chunks)


def test_the_first_chunk_arrives_before_the_upstream_sends_the_second(door, upstream, gpt):
    gate = threading.Event()
    upstream.always("p1", Answer(chunks=events("a", "b"), gate=gate))
    with door.stream(gpt) as answer:
        chunks = answer.iter_raw()
        first = next(chunks)
        assert b'"a"' in first
        assert b'"b"' not in first
        gate.set()
        assert b"[DONE]" in b"".join(chunks)


def test_a_client_that_hangs_up_closes_the_upstream_and_is_logged(door, upstream, gpt, logged):
    upstream.always("p1", Answer(chunks=events(*"abcdefgh"), gap=0.4))
    with door.stream(gpt) as answer:
        next(answer.iter_raw())
        gone_at = time.monotonic()
    until(lambda: upstream.hang_ups, "the upstream connection is closed")
    assert upstream.hang_ups[0] - gone_at < 1
    row = logged(answer)
    assert row.outcome == "client_gone"
    assert row.tokens_estimated
    assert row.output_tokens >= 1


def test_a_client_that_hangs_up_before_a_json_answer_is_logged(live, upstream, gpt):
    import httpx

    from monitoring.models import RequestLog

    upstream.always("p1", Answer(delay=5))
    with pytest.raises(httpx.ReadTimeout):
        plain.post(
            f"{live.url}/v1/chat/completions",
            content=ask("gpt"),
            timeout=0.6,
            headers={"authorization": f"Bearer {gpt}", "x-request-id": "hang-up"},
        )
    row = until(lambda: RequestLog.objects.filter(request_id="hang-up").first(), "its row")
    assert (row.outcome, row.status) == ("client_gone", None)


def test_default_parameters_are_sent_only_where_the_caller_gave_none(door, upstream, published):
    route = make_route(name="zai", default_parameters={"temperature": 0.7, "max_tokens": 1000})
    make_target(route=route, provider=make_provider(base_url=upstream.url("z")), upstream_model="glm")
    _, key = make_key()
    published()
    door.chat(key, "zai")
    door.chat(key, "zai", temperature=0, max_tokens=5)
    door.chat(key, "zai", max_completion_tokens=7)
    first, second, third = (seen.json for seen in upstream.calls("z"))
    assert (first["temperature"], first["max_tokens"]) == (0.7, 1000)
    assert (second["temperature"], second["max_tokens"]) == (0, 5)
    assert "max_tokens" not in third


def test_every_way_to_present_a_key_is_accepted(door, gpt):
    for headers in (
        {"authorization": f"Bearer {gpt}"},
        {"x-api-key": gpt},
        {"api-key": gpt},
        {"x-litellm-api-key": gpt},
    ):
        assert door.chat(None, headers=headers).status_code == 200, headers


def test_a_gateway_key_in_the_provider_key_header_is_never_sent_upstream(door, upstream, gpt):
    door.chat(None, headers={"x-litellm-api-key": gpt})
    assert gpt not in str(upstream.calls("p1")[0])


def test_a_callers_own_key_replaces_the_stored_one_where_the_provider_allows_it(door, upstream, published):
    provider = make_provider(
        slug="z-ai", base_url=upstream.url("z"), api_key="stored-secret-1", allow_caller_key=True
    )
    make_target(route=make_route(name="glm"), provider=provider)
    closed = make_provider(slug="closed", base_url=upstream.url("c"))
    make_target(route=make_route(name="shut"), provider=closed)
    _, key = make_key()
    published()
    assert door.chat(key, "glm", headers={"x-litellm-api-key": "own-key-1"}).status_code == 200
    assert upstream.calls("z")[0].headers["authorization"] == "Bearer own-key-1"
    refused = door.chat(key, "shut", headers={"x-litellm-api-key": "own-key-1"})
    assert (refused.status_code, refused.json()["error"]["gateway_code"]) == (403, "ACCESS_FORBIDDEN")
    upstream.always("z", Answer(status=401, body={"error": {"message": "bad key own-key-1"}}))
    bad = door.chat(key, "glm", headers={"x-litellm-api-key": "own-key-1"})
    assert (bad.status_code, bad.json()["error"]["gateway_code"]) == (401, "INVALID_API_KEY")
    assert "own-key-1" not in bad.text


def test_routing_headers_choose_provider_and_model(door, upstream, published):
    route = make_route(name="chat", aliases=["best"])
    for slug, priority in (("a", 1), ("b", 2)):
        make_target(
            route=route,
            provider=make_provider(slug=slug, base_url=upstream.url(slug)),
            upstream_model=f"own-{slug}",
            priority=priority,
        )
    _, key = make_key()
    published()
    door.chat(key, "best")
    door.chat(key, "chat", headers={"x-litellm-route": "b"})
    door.chat(key, "whatever", headers={"x-litellm-route": "b", "x-litellm-model": "own-b"})
    door.chat(key, "nothing", headers={"x-litellm-model": "chat"})
    assert len(upstream.calls("a")) == 2
    assert len(upstream.calls("b")) == 2
    missing = door.chat(key, "chat", headers={"x-litellm-route": "c"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_wildcard_route_passes_on_what_its_star_stood_for(door, upstream, published):
    make_target(
        route=make_route(name="openai/*"),
        provider=make_provider(base_url=upstream.url("w")),
        upstream_model="*",
    )
    make_target(
        route=make_route(name="openai/gpt-4*"),
        provider=make_provider(base_url=upstream.url("v")),
        upstream_model="four*",
    )
    _, key = make_key()
    published()
    door.chat(key, "openai/o3-mini")
    door.chat(key, "openai/gpt-4o")
    assert upstream.calls("w")[0].json["model"] == "o3-mini"
    assert upstream.calls("v")[0].json["model"] == "fouro"


def test_one_row_holds_what_a_request_was_and_cost(door, upstream, published, logged):
    usage = {
        "prompt_tokens": 1000,
        "completion_tokens": 200,
        "prompt_tokens_details": {"cached_tokens": 400},
        "completion_tokens_details": {"reasoning_tokens": 50},
    }
    upstream.always("p1", Answer(body=completion(usage=usage)))
    provider = make_provider(slug="p1", base_url=upstream.url("p1"))
    target = make_target(
        route=make_route(name="gpt"),
        provider=provider,
        upstream_model="m",
        input_price="2",
        cached_input_price="0.5",
        output_price="10",
    )
    row_key, key = make_key(name="app", team=make_team(slug="search"))
    published()
    answer = door.chat(key, headers={"x-litellm-tags": "a, b", "x-client-info": "frontend-gateway/1.0"})
    assert answer.headers["x-litellm-response-cost"] == "0.003400000"
    row = logged(answer)
    assert (row.key_id, row.key_name, row.team, row.route) == (row_key.pk, "app", "search", "gpt")
    assert (row.target_id, row.provider, row.upstream_model, row.endpoint) == (
        target.pk,
        "p1",
        "m",
        "chat/completions",
    )
    assert (row.status, row.outcome, row.error_code, row.stream, row.attempts) == (
        200,
        "answered",
        "",
        False,
        1,
    )
    assert (row.input_tokens, row.output_tokens, row.cached_tokens, row.reasoning_tokens) == (
        1000,
        200,
        400,
        50,
    )
    assert row.cost_nano_usd == 600 * 2000 + 400 * 500 + 200 * 10000
    assert not row.tokens_estimated
    assert (row.tags, row.client_info, row.request_id) == (
        ["a", "b"],
        "frontend-gateway/1.0",
        answer.headers["x-request-id"],
    )
    assert row.total_ms >= row.ttft_ms >= row.overhead_ms >= 0
    assert row.attempt_trail[0]["result"] == "200"


def test_an_unknown_price_is_logged_as_unknown_never_as_zero(door, gpt, logged):
    row = logged(door.chat(gpt))
    assert row.input_tokens == USAGE["prompt_tokens"]
    assert row.cost_nano_usd is None
    assert row.cost_usd is None


@pytest.mark.parametrize(
    ("message", "output_tokens"),
    [
        ({"content": "x" * 398}, 100),  # and its quotes
        ({"content": None, "reasoning_content": "x" * 198, "tool_calls": [1] * 67}, 100),
    ],
)
def test_a_whole_answer_without_usage_is_estimated_by_its_text(
    door, upstream, published, logged, message, output_tokens
):
    provider, prices = (
        make_provider(slug="p1", base_url=upstream.url("p1")),
        {"input_price": 1, "output_price": 2},
    )
    make_target(route=make_route(name="gpt"), provider=provider, upstream_model="m", **prices)
    _, key = make_key()
    published()
    body = {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}]}
    upstream.always("p1", Answer(body=body))
    answer = door.chat(key)
    row = logged(answer)
    assert row.tokens_estimated
    assert row.output_tokens == output_tokens
    nano_usd = row.input_tokens * 1000 + row.output_tokens * 2000
    assert row.cost_nano_usd == nano_usd
    assert answer.headers["x-litellm-response-cost"] == f"{nano_usd / 10**9:.9f}"


def test_a_streams_usage_is_logged(door, upstream, gpt, logged):
    upstream.always("p1", Answer(chunks=events("a", "b", usage=True)))
    with door.stream(gpt, stream_options={"include_usage": True}) as answer:
        answer.read()
    row = logged(answer)
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (24, 48, False)
    assert (row.stream, row.outcome, row.status) == (True, "answered", 200)


def test_keys_record_when_they_were_last_used(door, gpt):
    from routing.models import ApiKey

    door.chat(gpt)
    until(lambda: ApiKey.objects.get(name="app").last_used_at, "last_used_at is set")


def test_models_lists_what_the_key_may_use(door, upstream, published):
    route = make_route(name="org/gpt", aliases=["best"])
    make_target(route=route, provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    make_route(name="other")
    _, key = make_key(allowed_routes=[route])
    published()
    for base in ("/v1", "", "/api/llm"):
        listed = door.get(f"{base}/models", key).json()
        assert [model["id"] for model in listed["data"]] == ["best", "org/gpt"]
        one = door.get(f"{base}/models/org/gpt", key)
        assert (one.json()["id"], one.json()["owned_by"]) == ("org/gpt", "p1")
        assert door.get(f"{base}/models/other", key).status_code == 404
    assert door.get("/v1/models").status_code == 401


def test_a_key_whose_only_route_is_deleted_opens_no_other(door, upstream, published, gpt):
    route = make_route(name="doomed")
    _, key = make_key(allowed_routes=[route])
    route.delete()
    published()
    assert door.chat(key, "gpt").status_code == 403


def test_health_says_what_the_specification_expects(door, live, gpt):
    answer = door.get("/health").json()
    assert answer["service"] == "switchstand"
    assert answer["status"] == "healthy"
    assert answer["providers"] == {"p1": "healthy"}
    assert door.get("/health/liveliness").status_code == 200
    assert door.get("/health/readiness").json()["status"] == "ready"


def test_json_answers_are_json(door, gpt):
    assert json.loads(door.chat(gpt).content)["choices"][0]["message"]["content"] == "Hello!"
