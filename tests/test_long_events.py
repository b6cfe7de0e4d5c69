"""Events, streams and answers that never end: what is read, what is kept, and what passes all the same."""

import json

import httpx
import pytest

from proxy import continuing, sse
from proxy.ask import decode_chat
from proxy.continuing import Continuation
from proxy.sse import LONGEST_EVENT, MOST_LINES, StreamReader
from tests.factories import make_key
from tests.failing_over import part, route_over, row_of, stream, tokens
from tests.upstream import USAGE, Answer

MB = 1024 * 1024
ASK = decode_chat(b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": true}', None)


def event(delta, finish=None, **more):
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "i", "choices": choices} | more).encode() + b"\n\n"


def image(size):
    url = "data:image/png;base64," + "iVBO" * (size // 4)
    return event({"images": [{"type": "image_url", "image_url": {"url": url}}]})


END = [event({}, "stop"), event({}, usage=USAGE), b"data: [DONE]\n\n"]


class Counting:
    """A decoder that counts the bytes that it is given."""

    def __init__(self, decoder):
        self.decoder, self.bytes = decoder, 0

    def decode(self, data):
        self.bytes += len(data)
        return self.decoder.decode(data)

    def decode_lines(self, data):
        self.bytes += len(data)
        return self.decoder.decode_lines(data)


@pytest.fixture
def decoded(monkeypatch):
    counting = Counting(sse._event)
    monkeypatch.setattr(sse, "_event", counting)
    return counting


def pieces(whole, size):
    return [whole[at : at + size] for at in range(0, len(whole), size)]


# What is read


@pytest.mark.parametrize("lines", [2_000, 200_000], ids=["below the bound", "above it"])
def test_json_that_never_closes_is_read_once_however_many_lines_it_has(decoded, lines):
    whole = b"data: [1,\n" * lines
    reader = StreamReader()
    for piece in pieces(whole, 1000):
        assert reader.feed(piece) == len(piece)
    assert decoded.bytes < 2 * len(whole)
    assert not reader.malformed


def test_an_event_of_many_lines_is_read_when_it_is_whole(decoded):
    reader = StreamReader()
    lines = json.dumps({"choices": [], "usage": USAGE}, indent=1).splitlines()
    for line in lines:
        reader.feed(b"data: " + line.encode() + b"\n")
    assert reader.usage is None
    reader.feed(b"\n")
    assert (reader.usage.input, reader.usage.output) == (24, 48)
    assert not reader.malformed


def test_json_that_never_closed_is_malformed_where_its_event_ends():
    reader = StreamReader()
    good = event({"content": "hello"})
    assert reader.feed(good + b'data: {"choices": [\ndata: ,\n\n' + good) == len(good)
    assert reader.malformed


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_json_that_is_nested_too_deeply_is_malformed(depth):
    reader = StreamReader()
    assert reader.feed(b'data: {"x": ' + b"[" * depth + b"]" * depth + b"}\n\n") == 0
    assert reader.malformed


def test_a_line_that_never_ends_is_not_looked_at_again_with_each_piece(decoded, monkeypatch):
    reader, copied = StreamReader(), 0
    whole = StreamReader._with_half

    def with_half(self, lines):
        nonlocal copied
        copied += self.waiting
        return whole(self, lines)

    monkeypatch.setattr(StreamReader, "_with_half", with_half)
    for _ in range(40_000):
        reader.feed(b"data: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18")
    assert copied < 2 * LONGEST_EVENT
    assert decoded.bytes == 0
    assert reader.waiting <= LONGEST_EVENT


@pytest.mark.parametrize("size", [LONGEST_EVENT - 1000, LONGEST_EVENT + 1000, 3 * MB])
@pytest.mark.parametrize("cut", [1000, 65536, 10 * MB])
def test_what_is_too_long_to_be_read_is_no_fault(decoded, size, cut):
    reader = StreamReader()
    whole = image(size) + b"".join(END)
    assert all(reader.feed(piece) == len(piece) for piece in pieces(whole, cut))
    assert (reader.whole, reader.usage.output) == (True, 48)
    assert decoded.bytes < 2 * MB


def test_what_follows_an_event_that_was_not_read_is_read_also_without_a_blank_line():
    reader = StreamReader()
    for piece in pieces(image(2 * MB).rstrip() + b"\n" + END[0].rstrip() + b"\n" + END[1], 65536):
        reader.feed(piece)
    assert (reader.finished, reader.usage.output) == (True, 48)


@pytest.mark.parametrize("line", [b'data: "a": 1,\n', b'data: "a": 1,\r\n'])
def test_an_event_of_too_many_lines_is_not_read_and_the_next_one_is(decoded, line):
    reader, rest = StreamReader(), b"".join(END)
    assert reader.feed(b"data: {\n") == 8
    for _ in range(20):
        reader.feed(line * 1000)
    assert decoded.bytes < 100
    assert reader.feed(b"\n" + rest) == 1 + len(rest)
    assert (reader.whole, reader.usage.output) == (True, 48)


@pytest.mark.parametrize("behind", [b"data: [DONE]\n", b"data:[DONE]\n", b"event: error\ndata: x\n"])
@pytest.mark.parametrize("cut", [1, 7, 100_000])
def test_inside_of_what_is_not_read_nothing_that_matters_is_missed(behind, cut):
    reader = StreamReader()
    reader.feed(b"data: {\n" + b'data: "a": 1,\n' * (MOST_LINES + 1))
    for piece in pieces(b'data: "a": 1,\n' * 20 + behind + b'data: "a": 1,\n' * 20, cut):
        reader.feed(piece)
    assert (reader.done, reader.failed) == (b"DONE" in behind, b"error" in behind)


def test_the_text_of_what_was_not_read_is_estimated_and_an_image_is_no_text():
    text, picture = StreamReader(), StreamReader()
    text.feed(event({"content": "x" * 2 * MB}))
    picture.feed(image(2 * MB))
    assert text.size >= 2 * MB
    assert 1_000 < picture.size < 10_000


# What is kept


class Joined:
    """Searches in place of the pattern for a blank line, and counts."""

    def __init__(self, pattern):
        self.pattern, self.bytes = pattern, 0

    def search(self, data):
        self.bytes += len(data)
        return self.pattern.search(data)


def test_where_a_stream_may_be_continued_only_what_is_new_is_searched_for_a_blank_line(monkeypatch):
    searched = Joined(continuing._BLANK)
    monkeypatch.setattr(continuing, "_BLANK", searched)
    continuation = Continuation(ASK, 4 * MB)
    for _ in range(100_000):
        assert continuation.take(b"data: 12345678901234\n") == b""
    assert searched.bytes < 2 * 100_000 * 21
    assert continuation.fault == ""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\n\r\n"])
def test_a_blank_line_is_found_wherever_it_is_cut(end):
    whole = b": a comment" + end + event({"content": "a"})[:-2] + end
    for cut in range(len(whole)):
        continuation = Continuation(ASK, MB)
        told = continuation.take(whole[:cut]) + continuation.take(whole[cut:])
        assert (told.count(b"\n\n"), continuation.prefix.text, continuation.fault) == (2, "a", "")


def test_what_waits_for_a_blank_line_is_bounded_where_it_must_be_kept():
    continuation = Continuation(ASK, 100_000)
    for _ in range(10_000):
        continuation.take(b"data: 12345678901234\n")
        if continuation.fault:
            break
    assert continuation.fault == "sent an event of more than 100,000 bytes"
    assert continuation._waiting < 100_100


def test_an_image_passes_a_stream_that_may_be_continued_and_is_not_given_back(monkeypatch):
    counting = Counting(continuing._object)
    monkeypatch.setattr(continuing, "_object", counting)
    continuation, whole = Continuation(ASK, 32 * MB), image(10 * MB)
    told = b"".join(continuation.take(piece) for piece in pieces(whole, 65536))
    assert (told, continuation.fault, continuation.prefix) == (whole, "", None)
    assert counting.bytes == 0


# Through the gateway


@pytest.fixture
def gpt(upstream, published):
    def make(*slugs, **values):
        route_over(upstream, "gpt", *(slugs or ("p1",)), **values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


@pytest.mark.parametrize("on_cut", ["error", "hold", "continue"])
def test_an_image_of_10_mb_in_one_event_arrives_untouched(door, upstream, gpt, on_cut):
    key = gpt(on_cut=on_cut, provider={"stream_usage": "leave", "continues": "plain"})
    sent = [*pieces(image(10 * MB), 50_000), *END]
    upstream.always("p1", Answer(chunks=sent))
    with door.stream(key) as answer:
        told = answer.read()
    assert answer.status_code == 200
    assert told == b"".join(sent)
    row = row_of(answer)
    assert (row.outcome, row.output_tokens, row.tokens_estimated) == ("answered", 48, False)


@pytest.mark.parametrize("on_cut", ["hold", "continue"])
def test_an_event_that_the_gateway_must_keep_is_bounded(door, upstream, gpt, on_cut):
    key = gpt("p1", "p2", on_cut=on_cut, provider={"continues": "plain", "max_answer_bytes": 65536})
    begun = part(tokens(0, 3), id="one", end=False)
    upstream.always("p1", Answer(chunks=[*begun, b"data: " + b"x" * 40_000, b"x" * MB, b"\n\n"], stall=5))
    rest = tokens(3, 6) if on_cut == "continue" else tokens(0, 6)
    upstream.always("p2", Answer(chunks=part(rest, id="two")))
    told = stream(door, key)
    assert (told.text, told.dones, told.errors) == ("".join(tokens(0, 6)), 1, [])
    assert "of more than 65,536 bytes" in told.row.attempt_trail[0]["result"]


def test_a_held_stream_of_many_small_events_is_bounded_too(door, upstream, gpt):
    key = gpt("p1", "p2", on_cut="hold", provider={"max_answer_bytes": 65536})
    upstream.always("p1", Answer(chunks=part(tokens(0, 1000), id="one")))
    upstream.always("p2", Answer(chunks=part(tokens(0, 6), id="two")))
    told = stream(door, key)
    assert (told.text, told.row.provider) == ("".join(tokens(0, 6)), "p2")


def test_a_held_stream_that_is_long_goes_out_whole(door, upstream, gpt):
    key = gpt(on_cut="hold")
    upstream.always("p1", Answer(chunks=part(tokens(0, 4000), id="one", usage=USAGE)))
    told = stream(door, key)
    assert (told.text, told.dones) == ("".join(tokens(0, 4000)), 1)
    assert (told.row.outcome, told.row.output_tokens) == ("answered", 48)


def test_an_answer_that_is_too_long_to_be_collected_is_the_providers_failure(door, upstream, gpt):
    key = gpt("p1", "p2", provider={"max_answer_bytes": 100_000})
    upstream.always("p1", Answer(body={"choices": [], "x": "y" * 500_000}))
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p2")
    upstream.always("p2", Answer(body={"choices": [], "x": "y" * 500_000}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert answer.json()["error"]["message"] == "p2: sent an answer of more than 100,000 bytes."


@pytest.mark.parametrize("asked", [False, True], ids=["whole", "stream"])
def test_of_a_long_error_only_the_beginning_is_read(door, upstream, gpt, asked):
    key = gpt()
    page = b'{"error": {"message": "no such thing"}}' + b" " * 20 * MB
    upstream.always("p1", Answer(status=404, body=page))
    answer = door.chat(key, stream=asked)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "no such thing")


@pytest.mark.parametrize("named", ["text/html", "application/json; charset=latin-1", "x/y\x00", ""])
@pytest.mark.parametrize("asked", [False, True], ids=["whole", "stream"])
def test_the_content_type_is_the_endpoints_own_whatever_the_provider_called_it(
    door, upstream, gpt, named, asked
):
    key = gpt()
    if asked:
        upstream.always(
            "p1",
            Answer(
                chunks=part(tokens(0, 3), id="one"), headers={"content-type": "text/event-stream; x=<script>"}
            ),
        )
    else:
        upstream.always("p1", Answer(headers={"content-type": named.replace("\x00", "")}))
    answer = door.chat(key, stream=asked or None)
    assert answer.headers["content-type"] == ("text/event-stream" if asked else "application/json")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_nobody_may_guess_the_type_of_any_answer(door, live):
    refused = door.chat(None)
    assert (refused.status_code, refused.headers["x-content-type-options"]) == (401, "nosniff")
    for path in ("/v1/models", "/nothing", "/health", "/health/liveliness", "/metrics", "/admin/login/"):
        assert door.get(path).headers["x-content-type-options"] == "nosniff", path
    broken = httpx.post(
        f"{live.url}/v1/chat/completions", headers={"upgrade": "websocket", "connection": "upgrade"}
    )
    assert broken.headers["x-content-type-options"] == "nosniff"
