"""Node's clients, unchanged, through both doors: tests/clients has one script for each."""

import json
import subprocess
from pathlib import Path

import pytest

from tests import plain
from tests.client_routes import (
    FAILURES,
    GLM,
    OWN_ZAI_KEY,
    STORED_ZAI_KEY,
    TOOL,
    create_routes,
    streamed_tool_call,
    tool_call,
)
from tests.live import ORIGIN, until
from tests.optional import PARTS, needs
from tests.upstream import Answer, completion, events

pytestmark = needs("Node")
NOT_FROM_PAGES = {"connection"}  # forbidden there: browsers leave it out
SCRIPTS = Path(__file__).parent / "clients"


@pytest.fixture
def keys(upstream, published):
    return create_routes(upstream, published)


@pytest.fixture
def node(door, keys):
    """Runs a script through the door; returns what it found, and the ids of its calls."""

    def run(script, base="", **job):
        job = {"baseURL": door.url + base, "key": keys.app, "origin": door.headers.get("origin")} | job
        done = subprocess.run(
            [PARTS["Node"], SCRIPTS / script],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=60,
            env={},  # no keys and base URLs of whoever runs the tests
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["doors"] == [door.name]
        check_preflight(door, found["headers"])
        return found["result"], found["calls"]

    return run


def check_preflight(door, names):
    """A browser would let a page of an allowed origin send these headers."""
    asked = sorted(set(names) - NOT_FROM_PAGES)
    answer = plain.options(
        f"{door.url}/v1/chat/completions",
        headers={
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": ",".join(asked),
        },
    )
    allowed = {name.strip() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert sorted(set(asked) - allowed) == []


WEATHER = {"name": "get_weather", "arguments": {"city": "Bern"}}
RAIN = Answer(body=completion("It rains in Bern."))


@pytest.mark.parametrize("base", ["/v1", ""])
def test_openais_client_gets_all_that_it_knows(node, upstream, keys, base):
    upstream.script("gpt", Answer(body=completion("Grüß Gott")))
    upstream.script("calling", tool_call(), RAIN)
    upstream.script("calling-streamed", streamed_tool_call())
    failures = [failure.job(keys) for failure in FAILURES]
    found, _ = node("openai_node.mjs", base, tool=TOOL, listed=GLM, failures=failures)
    request_id = found["json"].pop("requestId")
    assert len(request_id) == 36
    assert found["json"] == {"content": "Grüß Gott", "total": 72}
    assert found["stream"] == ["Hel", "lo!", None]
    assert found["tools"] == WEATHER | {"final": "It rains in Bern."}
    assert found["streamedTools"] == WEATHER
    assert found["withResponse"] == {
        "content": "Hello!",
        "provider": "gpt",
        "group": "gpt",
        "requestId": "mine-1",
    }
    check_models(found["models"])
    check_failures(found["failures"])
    assert (found["tooLarge"]["status"], found["tooLarge"]["code"]) == (413, "request_too_large")
    check_broken_stream(found["brokenStream"])


def check_models(models):
    assert {"gpt", GLM} <= set(models["ids"])
    assert models["one"] == GLM
    assert models["missing"]["error"] == "NotFoundError"
    assert models["missing"]["code"] == "model_not_found"


def check_failures(found):
    for failure in FAILURES:
        for kind in ("json", "stream"):
            error = found[f"{failure.name} {kind}"]
            assert error.pop("message")
            assert error == {
                "error": failure.error,
                "status": failure.status,
                "code": failure.code,
                "gateway_code": failure.gateway_code,
                "sameRequestId": True,
                "retry_after": failure.retry_after,
            }


def check_broken_stream(broken):
    assert broken["words"] == ["Hel"]
    assert broken["isApiError"]
    assert broken["error"]["code"] == "upstream_error"
    assert "the answer is incomplete" in broken["error"]["message"]


@pytest.mark.parametrize("base", ["", "/v1"])
def test_langchain_works_as_the_specification_configures_it(node, upstream, base):
    bern = {"name": "Bern", "people": 134000}
    upstream.script(
        "gpt-3.5-turbo",
        Answer(body=completion("Grüß Gott")),
        Answer(),
        Answer(chunks=events("Hel", "lo!", usage=True)),
        tool_call(name="City", arguments=json.dumps(bern)),
        tool_call(),
        RAIN,
    )
    upstream.script("gpt-4o", Answer(body=completion(json.dumps(bern))))
    found, _ = node("langchain.mjs", base)
    assert found["invoke"]["content"] == "Grüß Gott"
    assert found["invoke"]["usage"]["total_tokens"] == 72
    assert found["ownKey"]["content"] == found["zai"]["content"] == "Hello!"
    assert found["stream"] == {"words": ["Hel", "lo!"], "total": 72}
    assert found["structured"] == found["bySchema"] == bern
    assert found["tools"] == {
        "calls": [{"name": "get_weather", "args": {"city": "Bern"}}],
        "final": "It rains in Bern.",
    }
    assert found["unknownKey"] == {
        "status": 401,
        "code": "invalid_api_key",
        "gateway_code": "INVALID_API_KEY",
    }
    assert found["brokenStream"]["words"] == ["Hel"]
    assert "the answer is incomplete" in found["brokenStream"]["message"]
    check_langchain_bodies([seen.json for seen in upstream.calls("gpt-3.5-turbo")])
    schema = upstream.calls("gpt-4o")[0].json["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"]) == ("City", True)
    assert upstream.calls("z-ai")[0].json["model"] == "glm-4-flash"


def check_langchain_bodies(bodies):
    assert len(bodies) == 6
    for body in bodies:
        assert (body["additionalParam"], body["temperature"], body["max_tokens"]) == ("value", 0.7, 1000)
    assert bodies[3]["tools"][0]["function"]["name"] == "City"
    assert [message["role"] for message in bodies[5]["messages"]] == ["user", "assistant", "tool"]


def test_the_specifications_litellm_gateway_client_works(node, upstream, keys):
    chunks = events("Hel", "lo!", usage=True)
    upstream.script("z-ai", Answer(), Answer(chunks=chunks))
    found, _ = node("litellm_gateway_client.mjs", zaiKey=OWN_ZAI_KEY)
    assert found["content"] == "Hello!"
    assert found["stream"].encode() == b"".join(chunks)
    assert found["error"]["message"] == "Unknown API key. It begins with sk-."
    assert found["error"]["status_code"] == 401
    calls = upstream.calls("z-ai")
    assert [seen.json["model"] for seen in calls] == ["glm-4-flash", "glm-4-flash"]
    assert {seen.headers["authorization"] for seen in calls} == {f"Bearer {OWN_ZAI_KEY}"}
    assert not upstream.calls("gpt-3.5-turbo")
    for seen in calls:
        assert keys.app not in str(seen)
        assert not [name for name in seen.headers if name.startswith("x-litellm")]


def test_the_specifications_frontend_gateway_client_works(node, upstream):
    from monitoring.models import RequestLog

    found, calls = node("frontend_gateway_client.mjs", "/api/llm")
    assert found["content"] == "Hello!"
    assert found["words"] == ["Hel", "lo!"]
    assert found["sent"] == "Failed to get response: HTTP 401: Unauthorized"
    assert found["streamed"] == "HTTP 401: Unauthorized"
    sent, streamed = upstream.calls("z-ai")
    assert (sent.json["temperature"], sent.json["max_tokens"]) == (0.7, 1000)
    assert streamed.json["stream"] is True
    assert sent.headers["authorization"] == f"Bearer {STORED_ZAI_KEY}"
    # Of strangers' calls few leave a row, and none has their client info.
    rows = RequestLog.objects.filter(id__in=calls, status=200).order_by("id")
    until(lambda: len(rows.all()) == 2, "the rows of both answers are shipped")
    assert [row.client_info for row in rows.all()] == ["frontend-gateway/1.0", ""]
