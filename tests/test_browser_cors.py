"""The specification's browser client, in a real browser, on allowed origins and on another."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from routing.compiler import current_version
from routing.models import GatewaySettings
from tests.browser import in_browser, web_origin
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import LiveGateway
from tests.optional import needs
from tests.upstream import Answer, FakeUpstream, events

pytestmark = needs("Chromium")

CALLERS_OWN = "caller-own-provider-key"
STREAM = """
async ({url, key, headers, body}) => {
  // FrontendGatewayClient.streamMessage of the specification, with all headers that it names.
  const response = await fetch(`${url}/api/llm/chat/completions`, {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      Authorization: `Bearer ${key}`,
      "X-Client-Info": "frontend-gateway/1.0",
      Accept: "text/event-stream",
      "Cache-Control": "no-cache",
      Connection: "keep-alive",
      ...headers,
    },
    body: JSON.stringify(body),
  });
  const reader = response.body.getReader(), decoder = new TextDecoder(), chunks = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push([performance.now(), decoder.decode(value, { stream: true })]);
  }
  return {status: response.status, chunks, provider: response.headers.get("x-proxy-provider"),
          call: response.headers.get("x-litellm-call-id")};
}
"""
FETCH = """
async ({url, key, body}) => {
  try {
    const response = await fetch(`${url}/api/llm/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
      body: JSON.stringify(body),
    });
    return {status: response.status, body: await response.json()};
  } catch (error) {
    return {rejected: error.name};
  }
}
"""


@pytest.fixture
def origin() -> Iterator[str]:
    with web_origin() as url:
        yield url


@pytest.fixture
def other_origin() -> Iterator[str]:
    with web_origin() as url:
        yield url


@pytest.fixture
def key(upstream: FakeUpstream, transactional_db: None) -> str:
    provider = make_provider(
        slug="z-ai",
        base_url=upstream.url("z-ai"),
        api_key="stored-key",
        allow_caller_key=True,
        health_check_enabled=False,
    )
    make_target(route=make_route(name="glm-4-flash"), provider=provider, upstream_model="glm-4-flash")
    return make_key()[1]


@pytest.fixture
def gateway(tmp_path: Path, origin: str, key: str) -> Iterator[LiveGateway]:
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "CORS_ALLOWED_ORIGINS": origin}
    started = LiveGateway(tmp_path, env).start()
    yield started
    started.stop()


def run(origin: str, script: str, gateway: LiveGateway, key: str, **values: Any) -> Any:
    body = {"model": "other", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.7}
    values = {"url": gateway.url, "key": key, "body": body | values.pop("body", {})} | values

    def act(page: Any) -> Any:
        page.goto(origin)
        return page.evaluate(script, values)

    return in_browser(act)


def test_a_page_on_an_allowed_origin_streams_with_every_header(
    gateway: LiveGateway, upstream: FakeUpstream, key: str, origin: str
) -> None:
    chunks = events("one ", "two ", "three", usage=True)
    upstream.script("z-ai", Answer(chunks=chunks, gap=0.15))
    headers = {
        "x-litellm-api-key": CALLERS_OWN,
        "x-litellm-route": "z-ai",
        "x-litellm-model": "glm-4-flash",
    }
    got = run(origin, STREAM, gateway, key, headers=headers, body={"stream": True})
    assert got["status"] == 200
    assert got["provider"] == "z-ai"
    assert got["call"]
    times, texts = zip(*got["chunks"], strict=True)
    assert len(texts) > 1
    assert times[-1] - times[0] > 300, "milliseconds: chunks come as they are sent, not at the end"
    lines = "".join(texts).split("\n\n")
    assert "data: [DONE]" in lines
    said = [json.loads(line[6:])["choices"] for line in lines if line.startswith("data: {")]
    assert "".join(choices[0]["delta"].get("content", "") for choices in said if choices) == "one two three"
    [seen] = upstream.calls("z-ai")
    assert seen.headers["authorization"] == f"Bearer {CALLERS_OWN}"
    assert seen.json["model"] == "glm-4-flash"
    assert not [value for value in seen.headers.values() if key in value]


def test_a_page_on_an_allowed_origin_reads_whole_answers_and_errors(
    gateway: LiveGateway, upstream: FakeUpstream, key: str, origin: str
) -> None:
    got = run(origin, FETCH, gateway, key, body={"model": "glm-4-flash"})
    assert got["status"] == 200
    assert got["body"]["choices"][0]["message"]["content"] == "Hello!"
    refused = run(origin, FETCH, gateway, "wrong-key-altogether", body={"model": "glm-4-flash"})
    assert refused["status"] == 401
    assert refused["body"]["error"]["code"] == "invalid_api_key"


def test_a_page_on_another_origin_is_refused(
    gateway: LiveGateway, upstream: FakeUpstream, key: str, other_origin: str
) -> None:
    got = run(other_origin, FETCH, gateway, key, body={"model": "glm-4-flash"})
    assert got == {"rejected": "TypeError"}
    assert upstream.calls("z-ai") == []


def test_an_origin_that_an_admin_lists_is_allowed_at_once(
    gateway: LiveGateway, upstream: FakeUpstream, key: str, other_origin: str
) -> None:
    GatewaySettings.objects.update_or_create(pk=1, defaults={"cors_origins": [other_origin]})
    gateway.wait_for_version(current_version())
    got = run(other_origin, FETCH, gateway, key, body={"model": "glm-4-flash"})
    assert got["status"] == 200
    assert len(upstream.calls("z-ai")) == 1
