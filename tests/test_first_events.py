"""A stream is judged by its first event with data, wherever it is cut and whatever keeps the line warm."""

import gzip
import json
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.attempts.opening import (
    ERROR,
    MALFORMED,
    MOST_BEFORE,
    NO_EVENT,
    NO_STREAM,
    TOO_MUCH,
    Begins,
    Opening,
    begins_plainly,
)
from proxy.sse import LONGEST_EVENT
from routing.compiler import current_version
from tests.factories import make_key
from tests.failing_over import part, results, route_over, row_of, stream, tokens
from tests.live import Door, until
from tests.upstream import USAGE, Answer

DONE = b"data: [DONE]\n\n"
COMMENT = b": PROCESSING\n\n"
FAILED = b'data: {"error":{"message":"overloaded","code":529}}\n\n'
GOOD = part(tokens(0, 5), id="one", usage=USAGE)
FIRST = GOOD[0]
WARM_AFTER = 1.0  # seconds, where it is 15: tests/quick.py


# The decision, cut anywhere


def decided(body, cuts):
    """What is found when the body comes in these pieces, and how much of it was needed."""
    opening, begun = Opening(), 0
    places = [*sorted({at for at in cuts if 0 < at < len(body)}), len(body)]
    for number, at in enumerate(places):
        chunk, begun = body[begun:at], at
        if number == 0 and begins_plainly(chunk):
            return Begins.WITH_EVENT, ""
        opening.hold(chunk)
        if opening.begins is not Begins.NOT_YET:
            assert b"".join(opening.held) == body[:at]
            return opening.begins, opening.fault
    opening.take(b"")
    return opening.begins, opening.fault


WARM = [
    COMMENT,
    b":\n\n",
    b"\n",
    b": ping - 2026-01-01 00:00:00\r\n\r\n",
    b"data:\n\n",
    b"data: \n\n",
    b"id: 1\nretry: 3000\n\n",
    b"event: message\n\n",
    b"event: ping\ndata: 2026-01-01\n\n",
    b"event: keep-alive\ndata: {}\n\n",
    b'data: {"type": "ping"}\n\n',
    b'event: ping\ndata: {"type": "ping"}\n\n',
]
EVENT = (Begins.WITH_EVENT, "")
FIRSTS = {
    FIRST: EVENT,
    b"id: 7\nevent: message\nretry: 1\n" + FIRST: EVENT,
    FIRST.rstrip() + b"\n": EVENT,  # no blank line
    FIRST.rstrip(): EVENT,
    FIRST.replace(b"\n", b"\r\n"): EVENT,
    FIRST.replace(b"data: ", b"data:"): EVENT,
    b'data: {"choices":\ndata: []\ndata: }\n\n': EVENT,
    b'data: {"choices": [],\r\n: between\r\ndata: "x": 1}\r\n\r\n': EVENT,
    b"data: " + b"A" * (LONGEST_EVENT + 10) + b"\n\n": EVENT,  # too long to be read
    FAILED: (Begins.WITH_FAULT, ERROR),
    FAILED.replace(b": ", b":"): (Begins.WITH_FAULT, ERROR),
    b'event: error\ndata: {"code": "1302", "message": "busy"}\n\n': (Begins.WITH_FAULT, ERROR),
    b"event: error\ndata: Internal error\n\n": (Begins.WITH_FAULT, ERROR),
    b'data: {"error":\ndata: {"message": "late"}}\n\n': (Begins.WITH_FAULT, ERROR),
    b'data: {"choices": [{"index": 0, "delta": {}}], "error": {"code": 502}}\n\n': (Begins.WITH_FAULT, ERROR),
    DONE: (Begins.WITH_FAULT, NO_EVENT),
    b"data: {half\n\n": (Begins.WITH_FAULT, MALFORMED),
    b'data: {"choices":\n\n': (Begins.WITH_FAULT, MALFORMED),
    b"": (Begins.WITH_FAULT, NO_EVENT),
    b": " + b"x" * MOST_BEFORE + b"\n\n" + FIRST: (Begins.WITH_FAULT, TOO_MUCH),
}
SHORT = [first for first in FIRSTS if len(first) < 1000]
REST = [b"", FAILED, DONE, b"data: {half\n\n", FIRST, b"".join(GOOD), COMMENT]


@pytest.mark.parametrize("warm", [[], [COMMENT], WARM], ids=["alone", "comment", "all that keeps warm"])
@pytest.mark.parametrize("first", FIRSTS, ids=lambda first: repr(first[:40]))
def test_the_decision_is_made_by_the_first_event_with_data(warm, first):
    assert decided(b"".join([*warm, first]), []) == FIRSTS[first]


@settings(deadline=None, max_examples=60)
@given(
    bom=st.booleans(),
    warm=st.lists(st.sampled_from(WARM), max_size=4),
    first=st.sampled_from(SHORT),
    rest=st.sampled_from(REST),
    crlf=st.booleans(),
)
@example(bom=False, warm=[], first=FIRST, rest=FAILED, crlf=False)
@example(bom=True, warm=[], first=FAILED, rest=b"".join(GOOD), crlf=True)
@example(bom=False, warm=WARM, first=DONE, rest=FIRST, crlf=False)
def test_the_decision_is_the_same_wherever_the_bytes_are_cut(bom, warm, first, rest, crlf):
    # What follows a line without its end is another line's end only where one begins.
    behind = rest if first.endswith(b"\n") else b"\n\n" + rest if rest else b""
    body = b"".join([*warm, first, behind])
    if crlf:
        body = body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    body = b"\xef\xbb\xbf" * bom + body
    whole = decided(body, [])
    if first:
        assert whole == FIRSTS[first]
    for at in range(1, len(body)):
        assert decided(body, [at]) == whole, f"cut at {at}"
    assert decided(body, range(len(body))) == whole, "cut at every byte"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"choices": []}', (Begins.WITH_JSON, "")),
        (b"\n\n  \r\n" + b'{"choices": []}', (Begins.WITH_JSON, "")),
        (b"\xef\xbb\xbf[1]", (Begins.WITH_JSON, "")),
        (b"<!doctype html><html>data: {}\n\n", (Begins.WITH_FAULT, NO_STREAM)),
        (b"denied\n\ndata: {}\n\n", (Begins.WITH_FAULT, NO_STREAM)),
        (b"\n\n\n", (Begins.WITH_FAULT, NO_EVENT)),
    ],
)
def test_what_is_no_stream_is_known_wherever_it_is_cut(body, found):
    assert decided(body, []) == found
    for at in range(1, len(body)):
        assert decided(body, [at]) == found, f"cut at {at}"
    assert decided(body, range(len(body))) == found


@pytest.mark.parametrize(
    "piece", [COMMENT, b"\n", b'data: {"type": "ping"}\n\n', b"event: ping\ndata: x\n", b": no end"]
)
def test_what_is_held_before_the_first_event_is_bounded(piece):
    opening, sent = Opening(), 0
    while opening.begins is Begins.NOT_YET and sent < 2 * LONGEST_EVENT:
        opening.hold(piece * 50)
        sent += len(piece) * 50
    assert opening.fault == TOO_MUCH
    assert sent <= MOST_BEFORE + 50 * len(piece) + (LONGEST_EVENT if b"ping\n" in piece else 0)


def test_the_usual_beginning_is_known_at_one_look():
    assert begins_plainly(FIRST)
    assert begins_plainly(b"".join(GOOD))
    for other in (COMMENT, FAILED, DONE, FIRST[:-1], FIRST.replace(b"\n", b"\r\n"), COMMENT + FIRST, b""):
        assert not begins_plainly(other)


# Through the doors


@pytest.fixture
def gpt(upstream, published):
    def make(*slugs, **values):
        route_over(upstream, "gpt", *(slugs or ("p1", "p2")), **values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


def bytes_of(body):
    return [bytes([byte]) for byte in body]


NO_ANSWERS = {
    "comments, then an error": [COMMENT, COMMENT, FAILED, DONE],
    "an error in two packets": [FAILED[:20], FAILED[20:], DONE],
    "an error behind its field's name": [b"data:", FAILED[5:], DONE],
    "an error of several lines": [COMMENT, b'data: {"error":\n', b'data: {"message": "x"}}\n\n'],
    "an error with CRLF": [b": x\r\n\r\n", FAILED.replace(b"\n", b"\r\n")],
    "an error behind a BOM": [b"\xef", b"\xbb\xbf" + FAILED],
    "an error behind other fields": [b"id: 1\nevent: error\nretry: 5\n", FAILED],
    "an error in its event's name": [b"event: error\n", b"data: busy\n\n"],
    "an error byte by byte": bytes_of(COMMENT + FAILED),
    "a farewell": [DONE],
    "comments and a farewell": [COMMENT, DONE],
    "comments and an end": [COMMENT, COMMENT],
    "data with nothing in it": [b"data:\n\n", b"data: \n\n", DONE],
    "pings and an error": [b'event: ping\ndata: {"type": "ping"}\n\n', FAILED],
    "half an event": [FIRST[:30]],
    "malformed": [COMMENT, b"data: {half\n\n", *GOOD],
    "too much": [b": " + b"x" * 8000 + b"\n\n"] * 10 + GOOD,
}


@pytest.mark.parametrize("chunks", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_before_the_first_event_the_next_target_is_tried(door, upstream, gpt, chunks):
    key = gpt()
    upstream.always("p1", Answer(chunks=chunks, gap=0.02 if len(chunks) < 8 else 0))
    upstream.always("p2", Answer(chunks=GOOD))
    told = stream(door, key)
    assert (told.answer.headers["x-proxy-provider"], told.dones, told.errors) == ("p2", 1, [])
    assert told.text == "".join(tokens(0, 5))
    row = told.row
    assert (row.outcome, row.attempts) == ("answered", 2)
    assert results(row)[0][1].startswith("upstream_error: p1: ")
    assert len(upstream.calls("p1")) == 1


@pytest.mark.parametrize("kind", ["fast_lane", "drf"])
def test_it_is_the_same_over_the_other_transport(kind, gateways, upstream, transactional_db):
    """Before the first event, and after comments have gone out."""
    gateway = gateways("httpx")
    cases = [chunks for chunks in NO_ANSWERS.values() if len(chunks) < 8]
    for number in range(len(cases)):  # each with circuits of its own
        route_over(upstream, f"gpt-{number}", f"first-{number}", f"second-{number}")
    route_over(upstream, "gpt", "p1", "p2")
    _, key = make_key()
    gateway.wait_for_version(current_version())
    door = Door(kind, gateway.url)
    for number, chunks in enumerate(cases):
        upstream.always(f"first-{number}", Answer(chunks=chunks, gap=0.02))
        told = stream(door, key, f"gpt-{number}")
        assert told.answer.headers["x-proxy-provider"] == f"second-{number}"
        assert len(upstream.calls(f"first-{number}")) == 1
    upstream.script("p1", Answer(chunks=[*[COMMENT] * 14, FAILED], gap=0.1))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p1")
    assert answer.content == COMMENT * 14 + FAILED


def test_where_no_target_has_an_event_the_error_is_json(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(chunks=[COMMENT, FAILED], gap=0.05))
    upstream.always("p2", Answer(chunks=[COMMENT, DONE], gap=0.05))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert row_of(answer).outcome == "upstream_failed"


BEGINNINGS = {
    "comments": [COMMENT, COMMENT],
    "half an event": [FIRST[:30], FIRST[30:]],
    "other fields": [b"event: message\nid: 1\n", b"retry: 3000\n"],
    "BOM": [b"\xef\xbb", b"\xbf"],
    "pings": [b"event: ping\ndata: 2026-01-01\n\n", b"data:\n\n"],
    "several lines": [b'data: {"id": "one", "choices":\n', b"data: []}\n\n"],
}


@pytest.mark.parametrize("on_cut", ["error", "hold"])
@pytest.mark.parametrize("begins", BEGINNINGS.values(), ids=BEGINNINGS)
def test_what_came_before_the_first_event_is_passed_on_with_it(door, upstream, gpt, begins, on_cut):
    key = gpt("p1", on_cut=on_cut, provider={"stream_usage": "leave"})
    chunks = [*begins, *GOOD]
    upstream.always("p1", Answer(chunks=chunks, gap=0.02))
    with door.stream(key) as answer:
        assert answer.read() == b"".join(chunks)
    assert row_of(answer).outcome == "answered"


@pytest.mark.parametrize("on_cut", ["error", "hold", "continue"])
def test_a_stream_that_comes_whole_is_judged_by_its_first_event_too(door, upstream, gpt, on_cut):
    key = gpt(on_cut=on_cut)
    upstream.always("p1", Answer(chunks=[COMMENT, FAILED, *GOOD], at_once=True))
    upstream.always("p2", Answer(chunks=[COMMENT, *GOOD], at_once=True))
    told = door.chat(key, stream=True)
    assert (told.status_code, told.headers["x-proxy-provider"]) == (200, "p2")
    assert told.content.startswith(COMMENT + FIRST)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_behind_the_first_event_is_the_callers(door, upstream, gpt, at_once):
    """As where both come in packets of their own: how they were packed decides nothing."""
    key = gpt()
    upstream.always("p1", Answer(chunks=[FIRST, FAILED], at_once=at_once, gap=0.05))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p1")
    assert b"overloaded" in answer.content
    assert row_of(answer).outcome == "upstream_broken"


def test_comments_do_not_extend_the_first_bytes_time(door, upstream, gpt):
    key = gpt(first_byte_timeout=0.4)
    upstream.always("p1", Answer(chunks=[COMMENT] * 40, gap=0.1))
    started = time.monotonic()
    told = stream(door, key)
    assert told.answer.headers["x-proxy-provider"] == "p2"
    assert time.monotonic() - started < 3
    assert results(told.row)[0][1].startswith("upstream_timeout: p1: no first event in time")


def test_the_first_tokens_time_is_the_first_events(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(chunks=[COMMENT, *GOOD], gap=0.3))
    row = stream(door, key).row
    assert row.provider == "p1"
    assert row.ttft_ms >= 290


def test_a_compressed_stream_is_judged_by_its_first_event(door, upstream, gpt):
    key = gpt()
    packed = gzip.compress(COMMENT + FAILED)
    headers = {"content-encoding": "gzip"}
    upstream.always("p1", Answer(chunks=[packed[:25], packed[25:]], gap=0.05, headers=headers))
    assert stream(door, key).answer.headers["x-proxy-provider"] == "p2"


def test_a_race_is_won_by_the_first_event(door, upstream, gpt):
    key = gpt(hedge_after_ms=100)
    upstream.always("p1", Answer(chunks=[COMMENT] * 30 + GOOD, gap=0.1))
    upstream.always("p2", Answer(chunks=GOOD, delay=WARM_AFTER + 0.4))
    told = stream(door, key)
    assert (told.answer.headers["x-proxy-provider"], told.dones) == ("p2", 1)
    assert results(told.row)[1] == ("p2", "200")


# Once comments have come for long


def test_after_a_while_comments_go_out_as_they_come(door, upstream, gpt):
    key = gpt()
    chunks = [*[COMMENT] * 15, *GOOD]
    upstream.always("p1", Answer(chunks=chunks, gap=0.1))
    began = time.monotonic()
    with door.stream(key) as answer:
        head_after = time.monotonic() - began
        parts = list(answer.iter_raw())
    assert answer.headers["x-proxy-provider"] == "p1"
    assert head_after < 1.5 + 0.1 * len(GOOD)
    body = b"".join(parts)
    assert body.startswith(COMMENT * 15 + FIRST)
    assert body.endswith(DONE)
    row = row_of(answer)
    assert (row.outcome, row.input_tokens, row.output_tokens) == ("answered", 24, 48)
    assert row.ttft_ms >= 1450


def events_of(body):
    return [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line.startswith(b"data: ")]


@pytest.mark.parametrize(
    "last", [[FAILED], [DONE], [], [b"data: {half\n\n", DONE]], ids=["error", "done", "end", "malformed"]
)
def test_from_then_on_a_failure_is_an_error_event(door, upstream, gpt, last):
    key = gpt()
    upstream.always("p1", Answer(chunks=[*[COMMENT] * 14, *last], gap=0.1))
    with door.stream(key) as answer:
        body = answer.read()
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p1")
    (told,) = events_of(body)
    assert json.loads(told)["error"]["message"]
    row = row_of(answer)
    assert (row.outcome, row.attempts, row.ttft_ms) == ("upstream_broken", 1, None)
    assert upstream.calls("p2") == []


@pytest.mark.parametrize("bound", ["first_byte_timeout", "attempt_timeout", "deadline"])
def test_the_first_events_deadline_holds_all_the_same(door, upstream, gpt, bound):
    key = gpt(**{bound: WARM_AFTER + 0.5})
    upstream.always("p1", Answer(chunks=[COMMENT] * 60, gap=0.1))
    started = time.monotonic()
    with door.stream(key) as answer:
        body = answer.read()
    assert time.monotonic() - started < 4
    assert answer.headers["x-proxy-provider"] == "p1"
    (told,) = events_of(body)
    assert json.loads(told)["error"]["code"] == "upstream_timeout"
    row = row_of(answer)
    assert (row.outcome, row.ttft_ms) == ("upstream_broken", None)


def test_a_route_that_continues_goes_on_with_another_target(door, upstream, gpt):
    key = gpt(on_cut="continue", provider={"continues": "plain"})
    upstream.always("p1", Answer(chunks=[*[COMMENT] * 14, FAILED], gap=0.1))
    upstream.always("p2", Answer(chunks=[COMMENT, *GOOD], gap=0.05))
    with door.stream(key) as answer:
        body = answer.read()
    assert b'"error"' not in body
    assert body.endswith(DONE)
    row = row_of(answer)
    assert (row.outcome, row.provider, row.attempts) == ("answered", "p2", 2)


def test_a_route_that_holds_streams_lets_no_comment_out(door, upstream, gpt):
    key = gpt(on_cut="hold")
    upstream.always("p1", Answer(chunks=[*[COMMENT] * 14, FAILED], gap=0.1))
    assert stream(door, key).answer.headers["x-proxy-provider"] == "p2"


def test_a_client_that_leaves_among_comments_is_let_go(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(chunks=[COMMENT] * 100, gap=0.1))
    with door.stream(key) as answer:
        next(answer.iter_raw())
    until(lambda: upstream.hang_ups, "the provider's connection is closed", 5)
    row = row_of(answer)
    assert (row.outcome, row.ttft_ms) == ("client_gone", None)


@pytest.mark.parametrize("on_cut", ["error", "continue"])
def test_pings_that_are_no_json_pass_in_the_middle_too(door, upstream, gpt, on_cut):
    key = gpt("p1", on_cut=on_cut)
    ping = b"event: ping\ndata: 2026-01-01 00:00:00\n\n"
    upstream.always("p1", Answer(chunks=[*GOOD[:3], ping, *GOOD[3:]], gap=0.02))
    with door.stream(key) as answer:
        body = answer.read()
    assert ping in body
    assert body.endswith(DONE)
    assert row_of(answer).outcome == "answered"
