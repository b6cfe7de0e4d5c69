"""Providers that fail before, during and after their answer: what the caller sees, and the one row left."""

import json
import socket
import threading
import time

import httpx
import pytest

from monitoring.models import RequestLog
from monitoring.shipping.storing import store
from proxy.ids import uuid7
from proxy.journal.records import Closed
from routing.compiler import current_version
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, ask, until
from tests.upstream import Answer, completion, events

CREDENTIAL = "credential-p1-0001"


@pytest.fixture(params=["fast_lane", "drf"])
def door(request, live_on):
    return Door(request.param, live_on.url)


@pytest.fixture
def served(upstream, live_on):
    """Makes a route gpt with one provider p1 and a key, once they are served; returns the plaintext."""

    def make(**provider):
        values = {"slug": "p1", "base_url": upstream.url("p1"), "retries": 0, "retry_delay": 0.01}
        make_target(
            route=make_route(name="gpt"),
            provider=make_provider(api_key=CREDENTIAL, **values | provider),
            upstream_model="m",
            input_price="1",
            output_price="2",
        )
        _, key = make_key(name="app")
        live_on.wait_for_version(current_version())
        return key

    return make


def rows_of(answer):
    """All rows that a call left: there must be one."""
    call = answer.headers["x-litellm-call-id"]
    until(lambda: RequestLog.objects.filter(id=call).exists(), f"the row of call {call}")
    return list(RequestLog.objects.filter(request_id=answer.headers["x-request-id"]))


def the_row(answer, outcome, status, error_code, *, attempts=1):
    (row,) = rows_of(answer)
    assert (row.outcome, row.status, row.error_code) == (outcome, status, error_code)
    assert (row.attempts, len(row.attempt_trail)) == (attempts, attempts)
    assert (row.route, row.provider, row.upstream_model, row.key_name) == ("gpt", "p1", "m", "app")
    assert row.total_ms > 0
    return row


def uncounted(row):
    """Nothing was answered: there are no tokens, not even estimated ones, and no cost."""
    found = (row.input_tokens, row.output_tokens, row.tokens_estimated, row.cost_nano_usd)
    assert found == (None, None, False, None)


BEFORE_THE_ANSWER = {
    "closes": Answer(cut="before_headers"),
    "resets": Answer(cut="before_headers", reset=True),
    "garbage": Answer(garbage=b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
    "half_a_head": Answer(garbage=b"HTTP/1.1 200 OK\r\ncontent-le"),
    "bad_status_line": Answer(garbage=b"HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n"),
    "bad_length": Answer(garbage=b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n{}"),
    "500": Answer(status=500, body=b""),
}
CHUNKED_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
NO_WHOLE_BODY = {
    "closes": Answer(cut="mid_body"),
    "resets": Answer(cut="mid_body", reset=True),
    "half_json": Answer(body=json.dumps(completion()).encode()[:-1]),
    "empty": Answer(body=b""),
    "html": Answer(body=b"<html></html>", headers={"content-type": "text/html"}),
    "bad_chunk": Answer(garbage=CHUNKED_JSON + b"zz\r\n{}"),
    "cut_chunk": Answer(garbage=CHUNKED_JSON + b'2\r\n{"'),
}


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("fault", BEFORE_THE_ANSWER.values(), ids=BEFORE_THE_ANSWER)
def test_a_provider_that_fails_before_its_answer_gives_502(door, upstream, served, fault, stream):
    key = served()
    upstream.always("p1", fault)
    answer = door.chat(key, stream=stream)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "application/json")
    error = answer.json()["error"]
    assert (error["code"], error["provider"]) == ("upstream_error", "p1")
    row = the_row(answer, "upstream_failed", 502, "upstream_error")
    uncounted(row)
    assert row.stream is stream
    assert row.attempt_trail[0]["result"].startswith("upstream_error: ")


@pytest.mark.parametrize("fault", NO_WHOLE_BODY.values(), ids=NO_WHOLE_BODY)
def test_a_body_that_is_not_whole_gives_502(door, upstream, served, fault):
    key = served()
    upstream.always("p1", fault)
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    uncounted(the_row(answer, "upstream_failed", 502, "upstream_error"))


@pytest.mark.parametrize("fault", ["reset", "half_json"])
def test_a_fault_is_mended_by_the_next_try(door, upstream, served, fault):
    key = served(retries=1)
    broken = Answer(cut="before_headers", reset=True) if fault == "reset" else Answer(body=b"{")
    upstream.script("p1", broken)
    answer = door.chat(key)
    assert answer.status_code == 200
    assert answer.headers["x-litellm-attempted-retries"] == "1"
    row = the_row(answer, "answered", 200, "", attempts=2)
    assert row.attempt_trail[1]["result"] == "200"


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("where", ["before_headers", "after_headers"])
def test_a_provider_that_stalls_before_its_first_byte_gives_504(door, upstream, served, where, stream):
    key = served(read_timeout=0.3)
    stalls = Answer(delay=5) if where == "before_headers" else Answer(chunks=[], stall=5)
    upstream.always("p1", stalls)
    answer = door.chat(key, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    uncounted(the_row(answer, "upstream_failed", 504, "upstream_timeout"))
    until(lambda: upstream.hang_ups or not stream, "the stalled connection is closed")


# Streams that begin


def read_stream(door, key, **body):
    with door.stream(key, **body) as answer:
        answer.read()
    return answer


def ends_with_one_error_event(answer, code):
    """One error event, last, after whole events; no [DONE]. Returns the events before it."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block for block in answer.content.split(b"\n\n") if block.strip()]
    assert b"[DONE]" not in answer.content
    assert sum(block.startswith(b'data: {"error"') for block in blocks) == 1
    error = json.loads(blocks[-1].removeprefix(b"data: "))["error"]
    assert (error["code"], error["provider"]) == (code, "p1")
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.content.endswith(b"\n\n")
    return blocks[:-1]


WORDS = events("Hel", "lo", "!", done=False, finish=False)
HALF = WORDS[-1][:40]
# The pause lets the chunks arrive first: what comes together with the break may be lost with it.
BROKEN_STREAMS = {
    "closes": Answer(chunks=WORDS, cut="after_chunks", stall=0.05),
    "resets": Answer(chunks=WORDS, cut="after_chunks", reset=True, stall=0.05),
    "ends_cleanly": Answer(chunks=WORDS),
    "closes_in_an_event": Answer(chunks=[*WORDS[:-1], HALF], cut="after_chunks", stall=0.05),
    "ends_cleanly_in_an_event": Answer(chunks=[*WORDS[:-1], HALF]),
    "bad_chunk": Answer(chunks=WORDS, tail=b"zz\r\n", stall=0.05),
}


@pytest.mark.parametrize("fault", BROKEN_STREAMS.values(), ids=BROKEN_STREAMS)
def test_a_stream_that_breaks_ends_with_one_error_event(door, upstream, served, fault):
    key = served()
    upstream.always("p1", fault)
    answer = read_stream(door, key)
    before = ends_with_one_error_event(answer, "upstream_error")
    assert [block + b"\n\n" for block in before[:2]] == WORDS[:2]
    row = the_row(answer, "upstream_broken", 200, "upstream_error")
    assert row.tokens_estimated
    assert row.input_tokens > 0
    assert 1 <= row.output_tokens <= 4
    assert row.cost_nano_usd == 1000 * row.input_tokens + 2000 * row.output_tokens
    assert row.ttft_ms is not None
    assert len(upstream.calls("p1")) == 1  # what has begun is never tried again


def test_a_stream_that_stalls_ends_with_a_timeout_event(door, upstream, served):
    key = served(read_timeout=0.3)
    upstream.always("p1", Answer(chunks=WORDS, stall=5))
    answer = read_stream(door, key)
    ends_with_one_error_event(answer, "upstream_timeout")
    assert the_row(answer, "upstream_broken", 200, "upstream_timeout").tokens_estimated
    until(lambda: upstream.hang_ups, "the stalled connection is closed")


def test_usage_that_came_before_the_break_is_not_estimated(door, upstream, served):
    key = served()
    chunk = b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}\n\n'
    upstream.always("p1", Answer(chunks=[*WORDS, chunk], cut="after_chunks", stall=0.05))
    answer = read_stream(door, key)
    ends_with_one_error_event(answer, "upstream_error")
    row = the_row(answer, "upstream_broken", 200, "upstream_error")
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (5, 7, False)


def test_a_stream_without_done_is_whole_where_it_gave_a_finish_reason(door, upstream, served):
    key = served()
    chunks = events("Hel", "lo", done=False, usage=True)
    upstream.always("p1", Answer(chunks=chunks))
    answer = read_stream(door, key, stream_options={"include_usage": True})
    assert answer.content == b"".join(chunks)
    row = the_row(answer, "answered", 200, "")
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (24, 48, False)


@pytest.mark.parametrize("reset", [False, True])
def test_a_break_after_done_is_no_fault(door, upstream, served, reset):
    """The client has its whole answer: an error event after [DONE] would make it look broken."""
    key = served()
    upstream.always("p1", Answer(chunks=events("a"), cut="after_chunks", reset=reset, stall=0.05))
    answer = read_stream(door, key)
    assert answer.content == b"".join(events("a"))
    the_row(answer, "answered", 200, "")


@pytest.mark.parametrize(
    "looks_done",
    [
        b'data: {"choices": [{"delta": {"content": "so data: [DONE]"}, "finish_reason": null}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": ""}]}\n\n',
        b": [DONE]\n\n",
    ],
    ids=["in_the_text", "empty_finish_reason", "in_a_comment"],
)
def test_only_the_end_looks_like_the_end(door, upstream, served, looks_done):
    key = served()
    upstream.always("p1", Answer(chunks=[WORDS[0], looks_done], cut="after_chunks", stall=0.05))
    answer = read_stream(door, key)
    last = answer.content.strip().rsplit(b"\n\n", 1)[-1]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    the_row(answer, "upstream_broken", 200, "upstream_error")


def test_a_providers_own_error_event_is_passed_on_and_logged(door, upstream, served):
    key = served()
    event = b'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
    upstream.always("p1", Answer(chunks=[*WORDS, event], gap=0.05))
    answer = read_stream(door, key)
    assert answer.content == b"".join([*WORDS, event])
    the_row(answer, "upstream_broken", 200, "upstream_error_event")


def test_an_error_instead_of_a_stream_is_an_error(door, upstream, served):
    """Some providers answer a stream's request with 200 and a JSON error."""
    key = served(retries=1)
    body = {"error": {"message": f"no quota for {CREDENTIAL}"}}
    upstream.always("p1", Answer(body=body))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert CREDENTIAL not in answer.text
    uncounted(the_row(answer, "upstream_failed", 502, "upstream_error", attempts=2))


def test_an_error_as_a_streams_first_event_is_an_error(door, upstream, served):
    """Nothing was sent to the caller yet: another try, or a JSON error."""
    key = served(retries=1)
    event = b'data: {"error": {"message": "no quota for %s"}}\n\n' % CREDENTIAL.encode()
    upstream.script("p1", Answer(chunks=[event]))
    assert b"[DONE]" in read_stream(door, key).content
    upstream.always("p1", Answer(chunks=[event, b"data: [DONE]\n\n"], gap=0.05))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    uncounted(the_row(answer, "upstream_failed", 502, "upstream_error", attempts=2))


def test_a_whole_answer_to_a_streams_request_is_passed_on(door, upstream, served):
    key = served()
    body = json.dumps(completion()).encode()
    upstream.always("p1", Answer(body=body))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.content) == (200, body)
    row = the_row(answer, "answered", 200, "")
    assert (row.input_tokens, row.output_tokens, row.tokens_estimated) == (24, 48, False)


# Absurd but well-formed


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_absurd_numbers_of_tokens_stop_no_row(door, upstream, served, stream):
    """A number that no column holds must not stop the shipping of every later row."""
    key = served()
    usage = {"prompt_tokens": 10**30, "completion_tokens": -5}
    event = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
    chunks = [*events("a", done=False), event, b"data: [DONE]\n\n"]
    upstream.always("p1", Answer(chunks=chunks) if stream else Answer(body=completion(usage=usage)))
    answer = door.chat(key, stream=stream)
    assert answer.status_code == 200
    assert the_row(answer, "answered", 200, "").tokens_estimated


def test_null_characters_stop_no_row(door, upstream, served):
    """Postgres stores no NUL; one in a model's name or an error's code must not stop the log."""
    key = served()
    answer = door.chat(key, "a\0b")
    assert answer.status_code == 404
    (row,) = rows_of(answer)
    assert row.model == "ab"
    upstream.always("p1", Answer(status=400, body={"error": {"message": "x\0y", "code": "c\0d"}}))
    answer = door.chat(key)
    assert answer.json()["error"]["message"] == "x\0y"
    the_row(answer, "caller_error", 400, "cd")


# Clients that hang up


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_client_that_hangs_up_before_the_answer_leaves_one_row(door, upstream, served, stream):
    key = served()
    upstream.always("p1", Answer(delay=3))
    with pytest.raises(httpx.ReadTimeout):
        door.client.post(
            "/v1/chat/completions",
            content=ask("gpt", stream=stream),
            headers={"authorization": f"Bearer {key}", "x-request-id": "gone"},
            timeout=0.6,
        )
    row = until(lambda: RequestLog.objects.filter(request_id="gone").first(), "its row")
    assert (row.outcome, row.status, row.attempts) == ("client_gone", None, 1)
    assert row.attempt_trail[0]["result"] == "cancelled"


def test_a_client_that_hangs_up_while_it_sends_its_body_leaves_the_gateway_serving(door, served):
    key = served()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
    origin = "".join(f"{name}: {value}\r\n" for name, value in door.headers.items())
    port = int(door.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"{head}{origin}content-length: 100\r\n\r\n{{".encode())
    assert door.chat(key).status_code == 200


def test_slots_are_free_again_after_every_kind_of_fault(door, upstream, served):
    """One connection only: a slot that leaks would make the next call wait."""
    key = served(max_connections=1, queue_timeout=0.5, read_timeout=0.3)
    faults = [
        Answer(cut="before_headers", reset=True),
        Answer(garbage=b"garbage\r\n\r\n"),
        Answer(delay=2),
        Answer(body=b"{"),
        Answer(cut="mid_body"),
        Answer(status=429, body={}),
    ]
    for stream in (False, True):
        for fault in faults:
            upstream.script("p1", fault)
            assert door.chat(key, stream=stream).status_code in (200, 429, 502, 504)
    for fault in BROKEN_STREAMS.values():
        upstream.script("p1", fault)
        read_stream(door, key)
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=events("a", "b"), gate=gate))
    with door.stream(key) as answer:
        next(answer.iter_raw())
    gate.set()
    assert until(lambda: door.chat(key).status_code == 200, "the slot of the one who hung up is free")


@pytest.mark.django_db
def test_a_row_that_no_column_takes_does_not_stop_the_others(caplog):
    calls = [
        Closed(
            id=uuid7(),
            received_at_ns=time.time_ns(),
            request_id=str(number),
            outcome="answered",
            endpoint="x",
        )
        for number in range(3)
    ]
    calls[1].input_tokens = 2**70
    store(calls)
    assert set(RequestLog.objects.values_list("request_id", flat=True)) == {"0", "2"}
    assert f"row of call {calls[1].id} can't be stored" in caplog.text
