"""The gateway refuses only what it can't route or bound: what OpenAI takes goes on as it came."""

import json

import pytest

from tests.factories import make_key, make_provider, make_route, make_target

HELLO = {"role": "user", "content": "hi"}
TAKEN = [
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": None, "refusal": "no"},
    {"role": "assistant", "content": None, "audio": {"id": "a"}},
    {"role": "assistant", "content": None, "reasoning_content": "because"},
    {"role": "assistant"},
    {"role": "user", "content": ""},
    {"role": "user", "content": []},
]


@pytest.fixture
def route(upstream, published):
    def make(dialects=("openai",), **values):
        found = make_route(name="gpt", **values)
        for dialect in dialects:
            provider = make_provider(slug=dialect, base_url=upstream.url(dialect), dialect=dialect, retries=0)
            make_target(route=found, provider=provider)
        _, key = make_key(tpm=10**9)
        published()
        return key

    return make


def test_messages_without_content_are_passed_through(door, upstream, route, subtests):
    key = route()
    for message in TAKEN:
        with subtests.test(message=message):
            assert door.chat(key, messages=[HELLO, message, HELLO]).status_code == 200
            assert upstream.calls("openai")[-1].json["messages"][1] == message


def test_zai_alone_wants_content_and_another_target_takes_what_it_refuses(door, upstream, route):
    key = route(("zai",))
    answer = door.chat(key, messages=[HELLO, TAKEN[0]])
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (
        400,
        "missing_field",
        "messages[1].content",
    )
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert door.chat(key, messages=[HELLO, called]).status_code == 200


def test_a_route_with_zai_and_another_provider_leaves_zai_out(door, upstream, route):
    key = route(("zai", "openai"))
    assert door.chat(key, messages=[HELLO, TAKEN[0]]).status_code == 200
    assert (len(upstream.calls("zai")), len(upstream.calls("openai"))) == (0, 1)


@pytest.mark.parametrize("written", ["100.0", "1e2", "100", "-1", "-2", "1E+2", "null"])
def test_a_count_is_taken_however_it_is_written(door, upstream, route, written):
    key = route()
    body = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"max_tokens":%b}' % written.encode()
    assert door.chat(key, content=body).status_code == 200
    assert b'"max_tokens":' + written.encode() in upstream.calls("openai")[-1].body


@pytest.mark.parametrize("written", ["1.5", "1e400", "1e30", '"100"', "-1e30"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
def test_what_is_no_count_is_named(door, route, name, written):
    key = route()
    body = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],"%b":%b}'
    answer = door.chat(key, content=body % (name.encode(), written.encode()))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in (name, None)  # None: no JSON number has this size


DEFAULTS = {
    "stream_options": {"include_usage": True},
    "stream": True,
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "top_logprobs": 3,
    "temperature": 0.5,
}


def test_a_default_that_is_valid_in_one_mode_only_is_sent_in_that_mode_only(door, upstream, route):
    key = route(default_parameters=DEFAULTS)
    door.chat(key)
    tools = [{"type": "function", "function": {"name": "f"}}]
    door.chat(key, tools=tools, logprobs=True)
    with door.stream(key) as answer:
        answer.read()
    plain, tooled, streamed = (json.loads(seen.body) for seen in upstream.calls("openai"))
    assert plain.keys() & DEFAULTS.keys() == {"temperature"}
    assert tooled.keys() & DEFAULTS.keys() == DEFAULTS.keys() - {"stream_options", "stream"}
    assert streamed.keys() & DEFAULTS.keys() == {"temperature", "stream_options", "stream"}


def test_defaults_that_belong_together_go_together(door, upstream, route):
    key = route(default_parameters={"logprobs": True, "top_logprobs": 3})
    door.chat(key)
    door.chat(key, logprobs=False)
    both, none = (json.loads(seen.body) for seen in upstream.calls("openai"))
    assert (both["logprobs"], both["top_logprobs"]) == (True, 3)
    assert "top_logprobs" not in none
