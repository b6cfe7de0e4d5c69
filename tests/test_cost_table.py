"""What answers cost, worked out by hand: OpenAI's, Anthropic's, Z.ai's and others' usage, JSON and streams.

Prices are USD per million tokens, so a token costs a thousandth of that price in millionths of a dollar:
at 2.5 USD it is 2,500 nano-USD.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer, completion, events


@dataclass
class Case:
    prices: dict[str, str]
    usage: dict[str, Any]  # as the provider reports it
    nano_usd: int
    tokens: dict[str, int | None]  # columns of the row
    dialect: str = "openai"
    before: list[dict[str, Any]] = field(default_factory=list)  # events of a stream before the usage


GPT_4O = {"input_price": "2.5", "cached_input_price": "1.25", "output_price": "10"}
GPT_AUDIO = {
    "input_price": "2.5",
    "output_price": "10",
    "audio_input_price": "40",
    "audio_output_price": "80",
}
SONNET = {
    "input_price": "3",
    "cached_input_price": "0.3",
    "cache_write_price": "3.75",
    "cache_write_1h_price": "6",
    "output_price": "15",
}
GLM = {"input_price": "0.6", "cached_input_price": "0.11", "output_price": "2.2"}
SONAR = {"input_price": "2", "output_price": "8", "reasoning_price": "3", "request_price": "0.005"}
IMAGE = {"input_price": "5", "image_input_price": "10", "output_price": "10", "image_output_price": "40"}

CASES = {
    "openai": Case(
        GPT_4O,
        {"prompt_tokens": 1117, "completion_tokens": 46, "total_tokens": 1163},
        1117 * 2500 + 46 * 10_000,  # 3,252,500
        {"input_tokens": 1117, "output_tokens": 46, "cached_tokens": 0, "reasoning_tokens": 0},
    ),
    "openai_cached": Case(
        GPT_4O,
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        86 * 2500 + 1920 * 1250 + 300 * 10_000,  # 5,615,000
        {"input_tokens": 2006, "output_tokens": 300, "cached_tokens": 1920},
    ),
    "openai_reasoning": Case(  # reasoning is a part of the completion, at the completion's price
        {"input_price": "1.1", "cached_input_price": "0.55", "output_price": "4.4"},
        {
            "prompt_tokens": 75,
            "completion_tokens": 1186,
            "total_tokens": 1261,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 1024,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        75 * 1100 + 1186 * 4400,  # 5,300,900
        {"input_tokens": 75, "output_tokens": 1186, "reasoning_tokens": 1024},
    ),
    "openai_audio": Case(
        GPT_AUDIO,
        {
            "prompt_tokens": 110,
            "completion_tokens": 250,
            "total_tokens": 360,
            "prompt_tokens_details": {"text_tokens": 30, "audio_tokens": 80, "cached_tokens": 0},
            "completion_tokens_details": {"text_tokens": 50, "audio_tokens": 200, "reasoning_tokens": 0},
        },
        30 * 2500 + 80 * 40_000 + 50 * 10_000 + 200 * 80_000,  # 19,775,000
        {"input_tokens": 110, "audio_input_tokens": 80, "audio_output_tokens": 200},
    ),
    "openai_responses": Case(  # its names, and its parts within the whole
        GPT_4O,
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 128},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 32},
            "total_tokens": 380,
        },
        200 * 2500 + 128 * 1250 + 52 * 10_000,  # 1,180,000
        {"input_tokens": 328, "cached_tokens": 128, "reasoning_tokens": 32},
    ),
    "openai_images": Case(
        IMAGE,
        {
            "input_tokens": 244,
            "input_tokens_details": {"text_tokens": 50, "image_tokens": 194},
            "output_tokens": 1056,
            "output_tokens_details": {"text_tokens": 0, "image_tokens": 1056},
            "total_tokens": 1300,
        },
        50 * 5000 + 194 * 10_000 + 1056 * 40_000,  # 44,430,000
        {"input_tokens": 244, "image_input_tokens": 194, "image_output_tokens": 1056},
    ),
    "anthropic": Case(
        SONNET,
        {"input_tokens": 2095, "output_tokens": 503},
        2095 * 3000 + 503 * 15_000,  # 13,830,000
        {"input_tokens": 2095, "output_tokens": 503, "cached_tokens": 0, "cache_write_tokens": None},
    ),
    "anthropic_cache": Case(  # what was read from and written to the cache is not in its input_tokens
        SONNET,
        {
            "input_tokens": 50,
            "cache_read_input_tokens": 100_000,
            "cache_creation_input_tokens": 248,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 503,
        },
        50 * 3000 + 100_000 * 300 + 148 * 3750 + 100 * 6000 + 503 * 15_000,  # 38,850,000
        {
            "input_tokens": 100_298,
            "cached_tokens": 100_000,
            "cache_write_tokens": 248,
            "cache_write_1h_tokens": 100,
            "output_tokens": 503,
        },
    ),
    "anthropic_stream": Case(  # told in two parts; the later counts hold
        SONNET,
        {"output_tokens": 15},
        25 * 3000 + 400 * 300 + 200 * 3750 + 15 * 15_000,  # 1,170,000
        {"input_tokens": 625, "cached_tokens": 400, "cache_write_tokens": 200, "output_tokens": 15},
        before=[
            {
                "type": "message_start",
                "message": {
                    "usage": {
                        "input_tokens": 25,
                        "cache_read_input_tokens": 400,
                        "cache_creation_input_tokens": 200,
                        "output_tokens": 1,
                    }
                },
            }
        ],
    ),
    "zai": Case(
        GLM,
        {
            "prompt_tokens": 1200,
            "completion_tokens": 700,
            "total_tokens": 1900,
            "prompt_tokens_details": {"cached_tokens": 1000},
            "completion_tokens_details": {"reasoning_tokens": 512},
        },
        200 * 600 + 1000 * 110 + 700 * 2200,  # 1,770,000
        {"input_tokens": 1200, "cached_tokens": 1000, "output_tokens": 700, "reasoning_tokens": 512},
        dialect="zai",
    ),
    "deepseek": Case(
        {"input_price": "0.28", "cached_input_price": "0.028", "output_price": "0.42"},
        {
            "prompt_tokens": 1000,
            "completion_tokens": 100,
            "total_tokens": 1100,
            "prompt_cache_hit_tokens": 900,
            "prompt_cache_miss_tokens": 100,
        },
        100 * 280 + 900 * 28 + 100 * 420,  # 95,200
        {"input_tokens": 1000, "cached_tokens": 900},
    ),
    "xai_reasoning": Case(  # counted in the total only, and billed as an answer
        {"input_price": "3", "output_price": "15"},
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 235,
            "completion_tokens_details": {"reasoning_tokens": 194},
        },
        32 * 3000 + 203 * 15_000,  # 3,141,000
        {"input_tokens": 32, "output_tokens": 203, "reasoning_tokens": 194},
    ),
    "perplexity": Case(  # reasoning and the request have prices of their own
        SONAR,
        {
            "prompt_tokens": 33,
            "completion_tokens": 11_000,
            "total_tokens": 11_033,
            "completion_tokens_details": {"reasoning_tokens": 10_000},
        },
        33 * 2000 + 1000 * 8000 + 10_000 * 3000 + 5_000_000,  # 43,066,000
        {"input_tokens": 33, "output_tokens": 11_000, "reasoning_tokens": 10_000},
    ),
    "rounding": Case(  # half a nano-USD is rounded up, once
        {"input_price": "0.0005", "output_price": "0.000001"},
        {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1},
        1,
        {"input_tokens": 1, "output_tokens": 0},
    ),
}


@pytest.fixture
def key(upstream, published):
    def make(case):
        provider = make_provider(slug="p1", dialect=case.dialect, base_url=upstream.url("p1"), retries=0)
        make_target(route=make_route(name="gpt"), provider=provider, upstream_model="m", **case.prices)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def check(row, case):
    assert {name: getattr(row, name) for name in case.tokens} == case.tokens
    assert (row.cost_nano_usd, row.tokens_estimated) == (case.nano_usd, False)
    priced = dict(part.rsplit(" ", 1) for part in row.price.split(", "))
    assert priced == {name.removesuffix("_price"): usd for name, usd in case.prices.items()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.before])
def test_an_answer_costs_what_its_tokens_do(door, upstream, key, logged, name):
    case = CASES[name]
    upstream.always("p1", Answer(body=completion(usage=case.usage)))
    answer = door.chat(key(case))
    whole, billionths = answer.headers["x-litellm-response-cost"].split(".")
    assert int(whole) * 10**9 + int(billionths) == case.nano_usd
    check(logged(answer), case)


@pytest.mark.parametrize("name", CASES)
def test_a_stream_costs_the_same(door, upstream, key, logged, name):
    case = CASES[name]
    words = events("Hel", "lo", done=False)
    told = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in case.before]
    usage = b"data: " + json.dumps({"choices": [], "usage": case.usage}).encode() + b"\n\n"
    upstream.always("p1", Answer(chunks=[*told, *words, usage, b"data: [DONE]\n\n"]))
    with door.stream(key(case)) as answer:
        answer.read()
    check(logged(answer), case)


@pytest.mark.parametrize("ending", ["response.completed", "response.incomplete", "response.failed"])
def test_usage_is_read_from_each_event_that_ends_a_response(door, upstream, key, logged, ending):
    case = CASES["openai_responses"]
    last = {"type": ending, "response": {"id": "r", "usage": case.usage}}
    word = {"type": "response.output_text.delta", "delta": "Hello"}
    chunks = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in (word, last)]
    upstream.always("p1", Answer(chunks=chunks, gap=0.02))
    with door.stream(key(case)) as answer:
        assert answer.read() == b"".join(chunks)
    row = logged(answer)
    assert row.outcome == ("upstream_broken" if ending == "response.failed" else "answered")
    check(row, case)
