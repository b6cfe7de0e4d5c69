"""What only the books read never decides about an answer: any usage and empty errors pass as they came."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects.base import MalformedAnswer
from proxy.dialects.openai.answer import read_answer
from proxy.metering.reported_usage import lenient
from proxy.metering.usage import UNREAD
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer, completion

GOOD = {"prompt_tokens": 11, "completion_tokens": 7}
READ = [
    {"prompt_tokens": 11.0, "completion_tokens": 7.0},
    {"prompt_tokens": "11", "completion_tokens": "7"},
    GOOD | {"prompt_tokens_details": []},
    GOOD | {"prompt_tokens_details": {"cached_tokens": "none"}},
    GOOD | {"completion_tokens_details": {"reasoning_tokens": 3.5}},
    GOOD | {"cache_creation": 0},
    GOOD | {"total_tokens": "x"},
]
UNREADABLE = [
    [],
    "none",
    0,
    True,
    {"prompt_tokens": "many", "completion_tokens": None},
    {"prompt_tokens": -5},
]
EMPTY_ERRORS = [{}, "", False, 0, [], None, {"message": "", "type": "", "code": None}, {"message": None}]


@pytest.fixture
def two(upstream, published):
    """A route gpt of two targets at a provider each, and a key."""
    route = make_route(name="gpt", strategy="ordered")
    for number, slug in enumerate(("p1", "p2")):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=1)
        make_target(route=route, provider=provider, priority=number)
    _, key = make_key()
    published()
    return key


@pytest.mark.parametrize("usage", READ)
def test_counts_are_read_field_by_field_and_the_answer_passes(door, upstream, two, logged, usage):
    upstream.script("p1", Answer(body=completion(usage=usage)))
    answer = door.chat(two)
    assert answer.json() == completion(usage=usage)
    row = logged(answer)
    assert (row.outcome, row.input_tokens, row.output_tokens) == ("answered", 11, 7)
    assert not row.tokens_estimated
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize("usage", UNREADABLE)
def test_what_cannot_be_read_is_estimated_and_the_answer_passes(door, upstream, two, logged, usage):
    upstream.script("p1", Answer(body=completion(usage=usage)))
    answer = door.chat(two)
    assert answer.json() == completion(usage=usage)
    row = logged(answer)
    assert (row.outcome, row.tokens_estimated) == ("answered", True)
    assert row.input_tokens > 0
    assert [len(upstream.calls(slug)) for slug in ("p1", "p2")] == [1, 0]


def test_the_half_that_can_be_read_is_kept(door, upstream, two, logged):
    upstream.script("p1", Answer(body=completion(usage={"prompt_tokens": "many", "completion_tokens": 7})))
    row = logged(door.chat(two))
    assert (row.output_tokens, row.tokens_estimated) == (7, True)
    assert row.input_tokens > 0


@pytest.mark.parametrize("error", EMPTY_ERRORS)
def test_an_error_that_says_nothing_is_none(door, upstream, two, error):
    upstream.script("p1", Answer(body=completion(error=error)))
    assert door.chat(two).json() == completion(error=error)
    assert len(upstream.calls("p1")) == 1


def test_an_answer_behind_a_byte_order_mark_passes_as_it_came(door, upstream, two, logged):
    body = b"\xef\xbb\xbf" + json.dumps(completion(usage=GOOD)).encode()
    upstream.script("p1", Answer(body=body, headers={"content-type": "application/json"}))
    answer = door.chat(two)
    assert (answer.status_code, answer.content) == (200, body)
    assert logged(answer).input_tokens == 11


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"choices": null, "base_resp": {"status_code": 1008}}',
        b'{"error": {"message": "overloaded"}}',
        b'{"choices": [{}], "error": "overloaded"}',
        b"[" * 100_000,
    ],
)
def test_no_json_no_answer_or_an_error_that_says_something_is_malformed(door, upstream, two, body):
    upstream.always("p1", Answer(body=body, headers={"content-type": "application/json"}))
    assert door.chat(two).status_code == 200
    assert len(upstream.calls("p2")) == 1


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "prompt_tokens",
                    "completion_tokens",
                    "total_tokens",
                    "input_tokens",
                    "output_tokens",
                    "prompt_tokens_details",
                    "completion_tokens_details",
                    "cached_tokens",
                    "reasoning_tokens",
                    "cache_creation",
                    "ephemeral_1h_input_tokens",
                    "cache_creation_input_tokens",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(usage=JSON)
def test_usage_of_any_type_never_changes_an_answer(usage):
    body = json.dumps(completion(usage=usage)).encode()
    found = read_answer(body)
    if found is not None:
        assert found.input >= UNREAD
        assert found.output >= UNREAD
        assert min(found.cached, found.reasoning, *found.more.counts) >= 0


@settings(deadline=None)
@given(prompt=st.integers(0, 10**6), completion_tokens=st.integers(0, 10**6), as_text=st.booleans())
def test_a_count_as_text_or_float_is_the_same_count(prompt, completion_tokens, as_text):
    kind = str if as_text else float
    usage = lenient({"prompt_tokens": kind(prompt), "completion_tokens": kind(completion_tokens)})
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion_tokens)


@settings(deadline=None)
@given(body=st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_malformed(body):
    with contextlib.suppress(MalformedAnswer):
        assert read_answer(body) is None or body
