"""Streams as providers really send them: odd usage, empty errors, several choices, wherever they are cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.sse import StreamReader
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer

END = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}
ODD = [
    {"usage": {"prompt_tokens": 11.0, "completion_tokens": "7"}},
    {"usage": USAGE | {"prompt_tokens_details": [], "completion_tokens_details": 3}},
    {"usage": USAGE | {"cache_creation": 0}},
    {"x_groq": {"id": "req_1", "usage": USAGE}},
    {"usage": USAGE, "error": {}},
    {"usage": USAGE, "error": {"message": "", "code": None}},
    {"usage": USAGE, "service_tier": [1], "type": 3, "message": 4},
]


def event(text="", reason=None, index=0, **more):
    choice = {"index": index, "delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]} | more).encode() + b"\n\n"


@pytest.fixture
def gpt(upstream, published):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    return key


@pytest.mark.parametrize("done", [True, False], ids=["done", "no farewell"])
@pytest.mark.parametrize("more", ODD, ids=str)
def test_the_usage_of_an_odd_last_event_is_read_and_the_stream_is_whole(
    door, upstream, gpt, logged, more, done
):
    chunks = [event("a"), event("", "stop", **more)] + ([END] if done else [])
    upstream.script("p1", Answer(chunks=chunks))
    with door.stream(gpt) as answer:
        body = b"".join(answer.iter_bytes())
    assert body == b"".join(chunks)
    row = logged(answer)
    assert (row.outcome, row.input_tokens, row.output_tokens) == ("answered", 11, 7)


def test_an_error_event_that_says_something_is_one(door, upstream, gpt, logged):
    chunks = [event("a"), event("", None, error={"message": "overloaded"}), END]
    upstream.script("p1", Answer(chunks=chunks, gap=0.3))
    with door.stream(gpt) as answer:
        answer.read()
    assert logged(answer).outcome == "upstream_broken"


def test_a_stream_that_ends_within_its_second_choice_is_cut(door, upstream, gpt, logged):
    chunks = [event("a"), event("b", index=1), event("", "stop"), event("bb", index=1)]
    upstream.script("p1", Answer(chunks=chunks))
    with door.stream(gpt, n=2) as answer:
        body = answer.read()
    assert b'"error"' in body
    assert logged(answer).outcome == "upstream_broken"


def test_a_stream_whose_choices_have_all_ended_is_whole_without_a_farewell(door, upstream, gpt, logged):
    chunks = [event("a"), event("b", index=1), event("", "stop"), event("", "length", index=1)]
    upstream.script("p1", Answer(chunks=chunks))
    with door.stream(gpt, n=2) as answer:
        body = answer.read()
    assert b'"error"' not in body
    assert logged(answer).outcome == "answered"


def read(body, cuts):
    reader, begun = StreamReader(), 0
    for cut in [*sorted({at % (len(body) + 1) for at in cuts}), len(body)]:
        reader.feed(body[begun:cut])
        begun = cut
    reader.end()
    return reader.usage, reader.whole, reader.failed, reader.finished, reader.size


TWO_LINES = b'data: {"usage":\ndata: null}\n\n'
EVENTS = st.one_of(
    st.builds(
        lambda text, reason, index, more: event(text, reason, index, **more),
        st.text(max_size=6),
        st.sampled_from([None, "", "stop"]),
        st.integers(0, 2),
        st.sampled_from([{}, *ODD, {"usage": None}, {"usage": "none"}]),
    ),
    st.sampled_from(
        [
            b": comment\n\n",
            b": keep\r\n\r\n",
            b"event: x\nid: 1\n",
            b"\n",
            b'data: {"usage":\ndata: null}\n\n',
        ]
    ),
)


@settings(deadline=None)
@given(
    events=st.lists(EVENTS, max_size=6),
    crlf=st.booleans(),
    done=st.booleans(),
    cuts=st.lists(st.integers(0, 4000)),
)
def test_what_is_read_of_a_stream_does_not_depend_on_where_it_is_cut(events, crlf, done, cuts):
    body = b"".join(events) + (END if done else b"")
    if crlf:
        body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert read(body, cuts) == read(body, [])
    assert read(body, range(len(body))) == read(body, [])


@settings(deadline=None)
@given(
    usage=st.one_of(
        st.none(), st.booleans(), st.text(), st.lists(st.integers()), st.dictionaries(st.text(), st.text())
    )
)
def test_usage_of_any_type_leaves_the_choices_of_its_event_read(usage):
    reader = StreamReader()
    reader.feed(event("abcdefgh", "stop", usage=usage))
    assert (reader.finished, reader.failed, reader.malformed, reader.size) == (True, False, False, 8)
