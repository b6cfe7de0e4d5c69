"""Streams are asked for their usage; callers who did not ask never see it, and nothing else is changed."""

import json

import pytest

from tests.factories import make_key
from tests.failing_over import route_over, stream
from tests.upstream import USAGE, Answer

COMMON = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
ASK_USAGE = {"include_usage": True}


def event(choices, *, compact=True, **more):
    content = COMMON | {"choices": choices} | more
    separators = (",", ":") if compact else (", ", ": ")
    return b"data: " + json.dumps(content, separators=separators).encode() + b"\n\n"


def word(text, **more):
    return event([{"index": 0, "delta": {"content": text}, "finish_reason": None}], **more)


def openai_stream(*, usage=True, nulls=True, compact=True):
    """As OpenAI sends it where usage was asked for; the same without it otherwise."""
    more = {"usage": None} if nulls else {}
    found = [word(text, compact=compact, **more) for text in ("He", 'l","usage":null,"', "o")]
    found.append(event([{"index": 0, "delta": {}, "finish_reason": "stop"}], compact=compact, **more))
    found += [event([], usage=USAGE, compact=compact)] if usage else []
    return [*found, b"data: [DONE]\n\n"]


@pytest.fixture
def key(upstream, published):
    def make(**provider):
        route_over(upstream, "gpt", "p1", provider=provider)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def received(door, key, **body):
    with door.stream(key, **body) as answer:
        return answer, answer.read()


@pytest.mark.parametrize("compact", [True, False])
def test_usage_is_asked_for_and_kept_from_who_did_not_ask(door, upstream, key, logged, compact):
    upstream.always("p1", Answer(chunks=openai_stream(compact=compact)))
    answer, told = received(door, key())
    assert told == b"".join(openai_stream(usage=False, nulls=False, compact=compact))
    assert upstream.calls("p1")[0].json["stream_options"] == ASK_USAGE
    row = logged(answer)
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (24, 48, False)
    assert row.cost_nano_usd == 24 * 1000 + 48 * 2000


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_wherever_chunks_are_cut(door, upstream, key, logged, size):
    whole = b"".join(openai_stream())
    upstream.always("p1", Answer(chunks=[whole[at : at + size] for at in range(0, len(whole), size)]))
    answer, told = received(door, key())
    assert told == b"".join(openai_stream(usage=False, nulls=False))
    assert logged(answer).output_tokens == 48


def test_who_asked_gets_every_byte(door, upstream, key, logged):
    upstream.always("p1", Answer(chunks=openai_stream()))
    answer, told = received(door, key(), stream_options=ASK_USAGE)
    assert told == b"".join(openai_stream())
    assert upstream.calls("p1")[0].json["stream_options"] == ASK_USAGE
    assert not logged(answer).tokens_estimated


def test_other_options_are_kept(door, upstream, key):
    plaintext = key()
    upstream.always("p1", Answer(chunks=openai_stream()))
    for options in ({"include_obfuscation": False}, {"include_usage": False, "x": 1}, {}, None):
        _, told = received(door, plaintext, stream_options=options)
        assert told == b"".join(openai_stream(usage=False, nulls=False))
        assert upstream.calls("p1")[-1].json["stream_options"] == {**(options or {}), **ASK_USAGE}


def test_what_is_no_object_is_left_to_the_provider(door, upstream, key):
    received(door, key(), stream_options="usage")
    assert upstream.calls("p1")[0].json["stream_options"] == "usage"


def test_a_routes_default_asks_for_its_callers(door, upstream, published):
    route_over(upstream, "gpt", "p1", default_parameters={"stream_options": ASK_USAGE})
    _, plaintext = make_key()
    published()
    upstream.always("p1", Answer(chunks=openai_stream()))
    assert received(door, plaintext)[1] == b"".join(openai_stream())


@pytest.mark.parametrize("provider", [{"stream_usage": "leave"}, {"dialect": "zai"}], ids=["off", "zai"])
def test_a_provider_that_takes_no_options_gets_none(door, upstream, key, provider):
    """What it tells all the same is passed on as ever."""
    upstream.always("p1", Answer(chunks=openai_stream()))
    _, told = received(door, key(**provider))
    assert told == b"".join(openai_stream())
    assert "stream_options" not in upstream.calls("p1")[0].json


def test_whole_answers_are_not_asked(door, upstream, key):
    door.chat(key())
    assert "stream_options" not in upstream.calls("p1")[0].json


def test_usage_beside_a_word_is_read_and_left_where_it_is(door, upstream, key, logged):
    last = event([{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}], usage=USAGE)
    chunks = [word("Hi"), last, b"data: [DONE]\n\n"]
    upstream.always("p1", Answer(chunks=chunks))
    answer, told = received(door, key())
    assert told == b"".join(chunks)
    assert logged(answer).output_tokens == 48


def test_each_target_of_a_continued_stream_is_asked_and_kept_from_the_caller(door, upstream, published):
    route_over(
        upstream, "gpt", "p1", "p2", on_cut="continue", stall_timeout=0.4, provider={"continues": "plain"}
    )
    _, plaintext = make_key()
    published()
    upstream.always("p1", Answer(chunks=openai_stream()[:2], cut="after_chunks", stall=0.05))
    upstream.always("p2", Answer(chunks=openai_stream()))
    told = stream(door, plaintext)
    assert told.usage is None
    assert (told.finished, told.dones) == (["stop"], 1)
    for slug in ("p1", "p2"):
        assert upstream.calls(slug)[0].json["stream_options"] == ASK_USAGE
    assert told.row.input_tokens > 24


def test_usage_is_read_from_an_error_event_too(door, upstream, key, logged):
    failing = b'data: {"error":{"message":"overloaded"},"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
    upstream.always("p1", Answer(chunks=[word("Hi"), failing], gap=0.05))
    answer, told = received(door, key())
    assert told == word("Hi") + failing
    row = logged(answer)
    assert (row.outcome, row.output_tokens, row.tokens_estimated) == ("upstream_broken", 48, False)
