"""OpenAI's Python client, unchanged, through both doors."""

import json

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from tests.client_routes import (
    FAILURES,
    GLM,
    OWN_ZAI_KEY,
    TOOL,
    Failure,
    create_routes,
    streamed_tool_call,
    tool_call,
)
from tests.live import ORIGIN, free_port, until
from tests.upstream import Answer, completion, events

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def keys(upstream, published):
    return create_routes(upstream, published)


@pytest.fixture
def connect(door, keys):
    """A client of either kind; `key` is a field of Keys or any text."""
    opened = []

    def make(kind=OpenAI, *, key="app", base="/v1", **options):
        client = kind(
            base_url=door.url + base,
            api_key=getattr(keys, key, key),
            default_headers=door.headers,
            **{"max_retries": 0} | options,
        )
        opened.append(client)
        return client

    yield make
    for client in opened:
        if isinstance(client, OpenAI):
            client.close()


@pytest.fixture
def client(connect):
    return connect()


def through(headers):
    """The door that answered: only Django adds CORS headers."""
    return "drf" if headers.get("access-control-allow-origin") == ORIGIN else "fast_lane"


@pytest.mark.parametrize("base", ["/v1", "", "/api/llm"])
def test_a_completion_is_parsed_on_every_base_path(connect, upstream, base):
    answer = connect(base=base).chat.completions.create(model="gpt", messages=HELLO, temperature=0.2)
    assert (answer.choices[0].message.content, answer.usage.total_tokens) == ("Hello!", 72)
    assert answer._request_id
    assert upstream.calls("gpt")[0].json == {
        "model": "upstream-gpt",
        "messages": HELLO,
        "temperature": 0.2,
    }


async def test_the_asynchronous_client_gets_answers_and_streams(connect):
    async with connect(AsyncOpenAI) as client:
        answer = await client.chat.completions.create(model="gpt", messages=HELLO)
        stream = await client.chat.completions.create(model="gpt", messages=HELLO, stream=True)
        words = [chunk.choices[0].delta.content async for chunk in stream]
    assert answer.choices[0].message.content == "Hello!"
    assert words == ["Hel", "lo!", None]


def test_a_stream_comes_word_by_word_with_its_usage(client, upstream):
    upstream.script("gpt", Answer(chunks=events("Grüß ", "Gott", usage=True)))
    stream = client.chat.completions.create(
        model="gpt", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert [chunk.choices[0].delta.content for chunk in chunks[:2]] == ["Grüß ", "Gott"]
    assert chunks[-1].usage.total_tokens == 72


def test_a_stream_left_half_way_frees_the_upstream(client, upstream):
    upstream.script("gpt", Answer(chunks=events(*"abcdefgh"), gap=0.4))
    with client.chat.completions.create(model="gpt", messages=HELLO, stream=True) as stream:
        assert next(stream).choices[0].delta.content == "a"
    until(lambda: upstream.hang_ups, "the upstream connection is closed")


def test_a_tool_is_called_and_its_result_goes_back(client, upstream):
    upstream.script("gpt", tool_call(), Answer(body=completion("It rains in Bern.")))
    asked = client.chat.completions.create(model="gpt", messages=HELLO, tools=[TOOL], tool_choice="auto")
    message = asked.choices[0].message
    call = message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bern"})
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    final = client.chat.completions.create(model="gpt", messages=[*HELLO, message, result], tools=[TOOL])
    assert final.choices[0].message.content == "It rains in Bern."
    sent = upstream.calls("gpt")[1].json
    assert sent["tools"] == [TOOL]
    assert [entry["role"] for entry in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][1]["tool_calls"][0]["id"] == sent["messages"][2]["tool_call_id"] == "call_1"


def test_a_streamed_tool_call_is_put_together(client, upstream):
    upstream.script("gpt", streamed_tool_call())
    with client.chat.completions.stream(model="gpt", messages=HELLO, tools=[TOOL]) as stream:
        call = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Bern"})


def test_a_structured_answer_is_parsed(client, upstream):
    class City(BaseModel):
        name: str
        people: int

    upstream.script("gpt", Answer(body=completion('{"name": "Bern", "people": 134000}')))
    answer = client.chat.completions.parse(model="gpt", messages=HELLO, response_format=City)
    assert answer.choices[0].message.parsed == City(name="Bern", people=134000)
    assert upstream.calls("gpt")[0].json["response_format"]["json_schema"]["name"] == "City"


def test_raw_responses_show_the_headers(client, door):
    raw = client.chat.completions.with_raw_response.create(
        model="gpt", messages=HELLO, extra_headers={"x-request-id": "mine-1"}
    )
    assert raw.parse().choices[0].message.content == "Hello!"
    assert (raw.headers["x-request-id"], raw.headers["x-proxy-provider"]) == ("mine-1", "gpt")
    assert raw.headers["x-litellm-model-group"] == "gpt"
    assert through(raw.headers) == door.name


def test_rate_limit_headers_are_readable(connect):
    limited = connect(key="limited").chat.completions
    raw = limited.with_raw_response.create(model="gpt", messages=HELLO)
    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as refused:
        limited.create(model="gpt", messages=HELLO)
    assert refused.value.code == "rate_limit_exceeded"
    assert (
        1 <= int(refused.value.response.headers["retry-after"]) <= 61
    )  # a minute, and the width of a bucket


def test_streaming_responses_give_lines_as_they_come(client, door):
    ask = client.chat.completions.with_streaming_response.create(model="gpt", messages=HELLO, stream=True)
    with ask as response:
        lines = [line for line in response.iter_lines() if line]
        assert through(response.headers) == door.name
    assert response.headers["content-type"] == "text/event-stream"
    assert len(lines) == 4
    assert lines[-1] == "data: [DONE]"


async def test_the_asynchronous_client_reads_raw_and_streaming_responses(connect, door):
    async with connect(AsyncOpenAI) as client:
        chat = client.chat.completions
        raw = await chat.with_raw_response.create(model="gpt", messages=HELLO)
        async with chat.with_streaming_response.create(model="gpt", messages=HELLO) as response:
            answer = await response.parse()
    assert answer.choices[0].message.content == raw.parse().choices[0].message.content == "Hello!"
    assert through(raw.headers) == through(response.headers) == door.name


def test_unknown_parameters_and_the_gateways_headers_reach_their_place(client, upstream):
    client.chat.completions.create(
        model="ignored",
        messages=HELLO,
        extra_body={"thinking": {"type": "enabled"}},
        extra_headers={
            "x-litellm-api-key": OWN_ZAI_KEY,
            "x-litellm-route": "z-ai",
            "x-litellm-model": "glm-4-flash",
        },
    )
    seen = upstream.calls("z-ai")[0]
    assert seen.json["model"] == "glm-4-flash"
    assert seen.json["thinking"] == {"type": "enabled"}
    assert seen.headers["authorization"] == f"Bearer {OWN_ZAI_KEY}"


def test_models_are_listed_and_retrieved(client):
    listed = {model.id: model for model in client.models.list()}
    assert {"gpt", "other", GLM} <= set(listed)
    assert listed[GLM].owned_by == "z-ai"
    assert client.models.retrieve(GLM) == listed[GLM]
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("none-such")
    assert missing.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name)
def test_each_failure_is_the_clients_own_error(connect, failure: Failure, stream, door):
    client = connect(key=failure.key)
    with pytest.raises(getattr(openai, failure.error)) as raised:
        client.chat.completions.create(model=failure.model, messages=HELLO * failure.messages, stream=stream)
    error = raised.value
    assert (error.status_code, error.code) == (failure.status, failure.code)
    assert error.body["gateway_code"] == failure.gateway_code
    assert error.body["message"] in str(error)
    assert error.request_id == error.body["request_id"]
    assert error.response.headers.get("retry-after") == failure.retry_after
    assert through(error.response.headers) == door.name


async def test_the_asynchronous_client_raises_the_same_errors(connect):
    async with connect(AsyncOpenAI, key="unknown") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="gpt", messages=HELLO)
    async with connect(AsyncOpenAI) as client:
        stream = await client.chat.completions.create(model="cut", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="the answer is incomplete"):
            [chunk async for chunk in stream]


def test_a_wrong_endpoint_and_a_wrong_method_are_errors_of_the_client(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.post("/nothing", cast_to=dict)
    assert missing.value.code == "unknown_endpoint"
    with pytest.raises(openai.APIStatusError) as planned:
        client.files.list()
    assert (planned.value.status_code, planned.value.code) == (501, "not_implemented")
    with pytest.raises(openai.APIStatusError) as refused:
        client.get("/chat/completions", cast_to=dict)
    assert (refused.value.status_code, refused.value.code) == (405, "method_not_allowed")


def test_a_body_over_the_limit_is_a_413_not_a_broken_connection(client):
    too_long = [{"role": "user", "content": "x" * (21 * 1024 * 1024)}]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="gpt", messages=too_long)
    assert (refused.value.status_code, refused.value.code) == (413, "request_too_large")
    assert client.chat.completions.create(model="gpt", messages=HELLO).choices


def test_a_broken_stream_raises_after_the_words_that_came(client):
    stream = client.chat.completions.create(model="cut", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError) as broken:
        next(stream)
    assert (broken.value.code, broken.value.type) == ("upstream_error", "upstream_error")
    assert "the answer is incomplete" in broken.value.message


def test_an_error_that_the_provider_sends_in_its_stream_is_raised(client, upstream):
    said = b'data: {"error": {"message": "The model is overloaded.", "code": "overloaded"}}\n\n'
    upstream.script("gpt", Answer(chunks=[*events("Hel", done=False, finish=False), said], gap=0.2))
    stream = client.chat.completions.create(model="gpt", messages=HELLO, stream=True)
    assert next(stream).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match=r"The model is overloaded\.") as raised:
        next(stream)
    assert raised.value.code == "overloaded"


def test_the_clients_own_retry_waits_as_told_and_succeeds(connect, upstream):
    upstream.script("gpt", Answer(status=429, headers={"retry-after": "1"}))
    answer = connect(max_retries=1).chat.completions.create(model="gpt", messages=HELLO)
    first, second = upstream.calls("gpt")
    assert answer.choices[0].message.content == "Hello!"
    assert second.at - first.at >= 1


def test_the_clients_own_time_out_is_logged_as_a_client_that_left(connect):
    from monitoring.models import RequestLog

    slow = connect(timeout=0.4).chat.completions
    with pytest.raises(openai.APITimeoutError):
        slow.create(model="slow", messages=HELLO, extra_headers={"x-request-id": "timed-out"})
    row = until(lambda: RequestLog.objects.filter(request_id="timed-out").first(), "its row")
    assert row.outcome == "client_gone"


def test_no_gateway_at_all_is_a_connection_error(keys):
    client = OpenAI(base_url=f"http://127.0.0.1:{free_port()}/v1", api_key=keys.app, max_retries=0)
    with client, pytest.raises(openai.APIConnectionError):
        client.chat.completions.create(model="gpt", messages=HELLO)
