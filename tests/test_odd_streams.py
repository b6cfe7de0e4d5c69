"""Streams as providers really send them: odd usage, empty errors, several choices, wherever they are cut."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.ask import decode_chat
from proxy.continuing import Continuation
from proxy.sse import BOM, StreamReader
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer

ASK = decode_chat(b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true}', None)
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


def as_sent(events, crlf, done, bom):
    body = b"".join(events) + (END if done else b"")
    if crlf:
        body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return (BOM if bom else b"") + body


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
            event("one line apart")[:-1],
        ]
    ),
)


@settings(deadline=None)
@given(
    events=st.lists(EVENTS, max_size=6),
    crlf=st.booleans(),
    done=st.booleans(),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 4000)),
)
def test_what_is_read_of_a_stream_does_not_depend_on_where_it_is_cut(events, crlf, done, bom, cuts):
    body = as_sent(events, crlf, done, bom)
    assert read(body, cuts) == read(body, [])
    assert read(body, range(len(body))) == read(body, [])
    plain = as_sent(events, False, done, False)
    assert read(body, []) == read(plain, [])


SAID = st.builds(
    lambda text, blank, lines: (text, said(text, blank, lines)),
    st.text(min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
)


def said(text, blank, lines):
    """An event of a caller's text; some have no blank line behind them, some go on over several lines."""
    whole = event(text)[:-2]
    if lines:
        return whole.replace(b', "finish_reason"', b'\ndata: , "finish_reason"') + b"\n\n"
    return whole + (b"\n\n" if blank else b"\n")


@settings(deadline=None, max_examples=200)
@example(parts=[("0", said("0", blank=False, lines=False))], crlf=False, bom=True, cuts=[])
@given(
    parts=st.lists(SAID | st.just(("", b": comment\n\n")), min_size=1, max_size=6),
    crlf=st.booleans(),
    bom=st.booleans(),
    cuts=st.lists(st.integers(0, 4000)),
)
def test_what_could_be_continued_does_not_depend_on_how_or_where_events_are_cut(parts, crlf, bom, cuts):
    body = as_sent([sent for _, sent in parts], crlf, True, bom)
    wanted = "".join(text for text, _ in parts)
    for places in (cuts, [], range(len(body))):
        continuation, begun, out = Continuation(ASK, 1 << 20), 0, b""
        for cut in [*sorted({at % (len(body) + 1) for at in places}), len(body)]:
            out += continuation.take(body[begun:cut])
            begun = cut
        out += continuation.end()
        assert (continuation.fault, continuation.prefix.text) == ("", wanted)
        assert read(out, []) == read(body, [])


def test_a_part_that_was_cut_inside_of_an_event_says_nothing_of_the_next_part():
    continuation = Continuation(ASK, 1 << 20)
    assert continuation.take(b'data: {"a": [1]\ndata: , "b": [2]\ndata: ,') == b""
    continuation.cut()
    said = event("Hel")[:-1] + event("lo")[:-1]
    assert continuation.take(said).count(b"\n\n") == 1


@pytest.mark.parametrize("on_cut", ["error", "hold", "continue"])
def test_events_without_blank_lines_between_them_are_passed_on(door, upstream, published, on_cut):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0, continues="flag")
    route = make_route(name="gpt", on_cut=on_cut)
    for priority in (0, 1):
        make_target(route=route, provider=provider, upstream_model=f"m{priority}", priority=priority)
    _, key = make_key()
    published()
    chunks = [event("Hel")[:-1], event("lo")[:-1], event("", "stop", usage=USAGE)[:-1], b"data: [DONE]\n"]
    upstream.script("p1", Answer(chunks=chunks))
    with door.stream(key) as answer:
        body = answer.read()
    lines = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    assert [json.loads(line)["choices"][0]["delta"]["content"] for line in lines[:-1]] == ["Hel", "lo", ""]
    assert lines[-1] == b"[DONE]"


@settings(deadline=None)
@given(
    usage=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(list(USAGE)), inner),
    )
)
def test_usage_of_any_type_leaves_the_choices_of_its_event_read(usage):
    reader = StreamReader()
    reader.feed(event("abcdefgh", "stop", usage=usage))
    assert (reader.finished, reader.failed, reader.malformed, reader.size) == (True, False, False, 8)
