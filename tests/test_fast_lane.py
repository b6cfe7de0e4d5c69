"""The fast lane on the wire: raw sockets to a live gateway."""

import contextlib
import json
import socket
import threading
import time

import pytest

from monitoring.models import RequestLog
from routing.compiler import current_version
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import LiveGateway, ask, steady, until
from tests.raw_client import GET_HEALTH, PATH, Answers, post, statuses
from tests.upstream import Answer, completion, events


@pytest.fixture
def key(published, upstream):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, plaintext = make_key()
    published()
    return plaintext


# One after the other


def test_pipelined_requests_are_answered_in_their_order(connect, upstream, key):
    texts = ["slow", "quick", "last"]
    upstream.script("p1", *(Answer(body=completion(text), delay=0.2 * (text == "slow")) for text in texts))
    client = connect()
    client.sendall(post(key) * 3)
    answers = Answers(client)
    bodies = [json.loads(answers.next()[2]) for _ in range(3)]
    assert [body["choices"][0]["message"]["content"] for body in bodies] == texts


def test_both_doors_share_a_connection(connect, key):
    client = connect()
    client.sendall(post(key) + GET_HEALTH + post(key) + post(key, None, "Origin: http://allowed.test"))
    assert statuses(client, 4) == [200, 200, 200, 200]


def test_a_refused_request_leaves_the_connection_for_the_next(connect, key):
    client = connect()
    client.sendall(post("wrong") + post(key, b"{") + post(key))
    assert statuses(client, 3) == [401, 400, 200]


def test_a_pipelined_stream_is_whole_before_the_next_answer(connect, key):
    client = connect()
    client.sendall(post(key, ask("gpt", stream=True)) + post(key))
    answers = Answers(client)
    assert answers.next()[2].endswith(b"data: [DONE]\n\n")
    assert answers.next()[0] == 200


def test_one_who_hangs_up_ends_the_running_call_also_with_others_behind(connect, upstream, key):
    upstream.script("p1", Answer(delay=8))
    client = connect()
    client.sendall(post(key) + post(key))
    until(lambda: len(upstream.calls("p1")) == 1, "the first is under way")
    client.close()
    until(lambda: upstream.hang_ups, "the provider is hung up on", 3)
    time.sleep(0.2)
    assert len(upstream.calls("p1")) == 1


def test_garbage_behind_a_request_does_not_end_up_in_its_answer(connect, upstream, key):
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=events("one", "two"), gate=gate))
    client = connect()
    client.sendall(post(key, ask("gpt", stream=True)))
    until(lambda: upstream.calls("p1"), "the call is under way")
    client.sendall(b"\x00garbage\r\n\r\n")
    time.sleep(0.2)
    gate.set()
    answers = Answers(client)
    status, _, body = answers.next()
    assert (status, body) == (200, b"".join(events("one", "two")))
    assert answers.ended()


# Ways to write a request


def test_a_client_that_asks_first_is_told_to_go_on(connect, key):
    client = connect()
    request = post(key, None, "Expect: 100-continue")
    head, _, body = request.partition(b"\r\n\r\n")
    client.sendall(head + b"\r\n\r\n")
    answers = Answers(client)
    assert answers.next()[0] == 100
    client.sendall(body)
    assert answers.next()[0] == 200


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_a_chunked_body(connect, upstream, key, size):
    body = ask("gpt", user="u")
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    client = connect()
    client.sendall(post(key, b"", "Transfer-Encoding: chunked", length=False))
    for part in parts:
        client.sendall(b"%x\r\n%b\r\n" % (len(part), part))
    client.sendall(b"0\r\n\r\n" + post(key))
    assert statuses(client, 2) == [200, 200]
    assert upstream.calls("p1")[0].json["user"] == "u"


@pytest.mark.parametrize(
    "path", [f"http://x{PATH}", f"{PATH}?a=1&b=%20", "/v1/chat%2Fcompletions", f"{PATH}?"]
)
def test_ways_to_write_the_address(connect, key, path):
    client = connect()
    client.sendall(post(key, path=path) + post(key))
    assert statuses(client, 2) == [200, 200]


@pytest.mark.parametrize("keep", [(), ("Connection: keep-alive",)], ids=["close", "keep-alive"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_http_1_0_gets_no_chunks_and_an_end(connect, key, keep, stream):
    client = connect()
    client.sendall(post(key, ask("gpt", stream=stream), *keep, version="1.0"))
    answers = Answers(client)
    status, headers, body = answers.next()
    assert (status, headers.get("transfer-encoding")) == (200, None)
    assert body.endswith(b"data: [DONE]\n\n" if stream else b"}")
    assert answers.ended()


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE", "PATCH"])
def test_another_method_gets_405(connect, key, method):
    client = connect()
    client.sendall(post(key, method=method) + post(key))
    assert statuses(client, 2) == [405, 200]


def test_head_gets_405_without_a_body(connect, key):
    client = connect()
    client.sendall(post(key, method="HEAD"))
    time.sleep(0.3)
    head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert body == b""


def test_ten_thousand_bytes_of_headers(connect, key):
    client = connect()
    client.sendall(post(key, None, *(f"X-Filler-{number}: {'x' * 90}" for number in range(100))))
    assert statuses(client, 1) == [200]


def test_headers_byte_by_byte(connect, key):
    client = connect()
    for byte in post(key):
        client.send(bytes([byte]))
    assert statuses(client, 1) == [200]


# What must not pass


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: +5"],
        ["Content-Length: 5 5"],
        ["Content-Length: -1"],
        ["Content-Length: 99999999999999999999"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: 5", "X: a\x00b"],
    ],
    ids=" + ".join,
)
def test_a_request_with_two_ends_is_refused(connect, upstream, key, lines):
    client = connect()
    hidden = post(key)
    client.sendall(post(key, b"", *lines, length=False) + b"0\r\n\r\n" + hidden)
    answers = Answers(client)
    status, headers, _ = answers.next()
    assert (status, headers["connection"]) == (400, "close")
    assert answers.ended()
    assert upstream.calls("p1") == []


@pytest.mark.parametrize("sent", [b"P", b"POST /v1/chat", post("k")[:60], post("k")[:-5]])
def test_a_client_that_goes_half_way_leaves_nothing(connect, upstream, key, sent):
    connect().sendall(sent)
    gone = connect()
    gone.sendall(sent)
    gone.close()
    client = connect()
    client.sendall(post(key))
    assert statuses(client, 1) == [200]


# Time


@pytest.fixture(scope="module")
def hasty(django_db_setup, tmp_path_factory):
    """A gateway that waits 1 s for headers and 2 s for bodies."""
    from tests.conftest import TEST_DATABASE

    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "HEADER_SECONDS": "1", "BODY_SECONDS": "2"}
    gateway = LiveGateway(tmp_path_factory.mktemp("hasty"), env).start()
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("sent", [b"", b"P", post("k")[:60], GET_HEALTH + b"POST /v1"])
def test_headers_that_never_end_are_waited_for_only_so_long(hasty, connect, sent):
    client = connect(hasty.port)
    began = time.monotonic()
    client.sendall(sent)
    received = b""
    while part := client.recv(65536):
        received += part
    assert 0.9 < time.monotonic() - began < 4
    begun = sent.removeprefix(GET_HEALTH).strip() != b""
    assert received.count(b"HTTP/1.1 408 ") == begun
    assert received.count(b"HTTP/1.1 200 ") == sent.startswith(GET_HEALTH)


def test_a_drop_now_and_then_wins_no_time(hasty, connect):
    client = connect(hasty.port)
    began = time.monotonic()
    with contextlib.suppress(ConnectionError):
        for byte in post("k", None, "X: " + "y" * 1000)[:100]:
            client.send(bytes([byte]))
            time.sleep(0.1)
    assert 0.9 < time.monotonic() - began < 5


def test_stray_line_breaks_keep_no_connection(hasty, connect):
    client = connect(hasty.port)
    client.sendall(GET_HEALTH)
    answers = Answers(client)
    assert answers.next()[0] == 200
    began = time.monotonic()
    client.sendall(b"\r\n")
    assert answers.ended()
    assert time.monotonic() - began < 4


def test_a_long_answer_and_a_kept_connection_are_not_cut_off(hasty, connect, upstream, key):
    hasty.wait_for_version(current_version())
    upstream.script("p1", Answer(delay=3))
    client = connect(hasty.port)
    client.sendall(post(key))
    answers = Answers(client)
    assert answers.next()[0] == 200
    time.sleep(2.5)
    client.sendall(post(key))
    assert answers.next()[0] == 200


# Slow and half-closed clients


class Counted(list):
    """A stream of 64 KB chunks that counts how many were asked for."""

    chunk = events("x" * 65000, done=False, finish=False)[0]
    count = 800
    given = 0

    def __iter__(self):
        for _ in range(self.count):
            self.given += 1
            yield self.chunk
        yield from events()


def test_a_client_that_does_not_read_holds_the_provider_back(connect, upstream, key):
    chunks = Counted()
    upstream.script("p1", Answer(chunks=chunks))
    client = connect(SO_RCVBUF=65536)
    client.sendall(post(key, ask("gpt", stream=True)))
    until(lambda: chunks.given, "the stream has begun")
    assert 0 < steady(lambda: chunks.given, 1) < chunks.count // 2
    status, _, body = Answers(client).next()
    assert (status, body.count(b'xxx"}')) == (200, chunks.count)


def test_half_closing_is_hanging_up(connect, upstream, key):
    upstream.script("p1", Answer(delay=8))
    client = connect()
    client.sendall(post(key))
    until(lambda: upstream.calls("p1"), "the call is under way")
    client.shutdown(socket.SHUT_WR)
    until(lambda: upstream.hang_ups, "the provider is hung up on", 3)
    assert Answers(client).ended()


# Bodies that never end


DOORS = {"fast_lane": (), "drf": ("Origin: http://allowed.test",)}


@pytest.fixture(params=sorted(DOORS))
def request_head(request, hasty, key):
    """Announces a body of 1,000 bytes."""
    hasty.wait_for_version(current_version())
    whole = post(key, b"x" * 1000, *DOORS[request.param])
    return whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def timed_out(client, began, longest):
    """Reads the 408 of a connection that is closed then."""
    answers = Answers(client)
    status, headers, body = answers.next()
    error = json.loads(body)["error"]
    assert (status, headers["connection"]) == (408, "close")
    assert (error["code"], error["type"], error["status_code"]) == ("request_timeout", "timeout_error", 408)
    assert 1.9 < time.monotonic() - began < longest
    assert answers.ended()
    return headers


@pytest.mark.parametrize("sent", [0, 500])
def test_a_body_that_stops_coming_is_answered_408_and_leaves_a_row(hasty, connect, request_head, sent):
    client = connect(hasty.port)
    began = time.monotonic()
    client.sendall(request_head + b"x" * sent)
    id = timed_out(client, began, 6)["x-request-id"]
    (row,) = until(lambda: RequestLog.objects.filter(request_id=id), "its row")
    assert (row.outcome, row.status, row.error_code) == ("refused", 408, "request_timeout")


def test_a_body_that_comes_by_the_drop_is_answered_408(hasty, connect, request_head):
    client = connect(hasty.port)
    began = time.monotonic()
    client.sendall(request_head)
    with contextlib.suppress(ConnectionError):
        for _ in range(14):
            client.send(b"x")
            time.sleep(0.3)
    timed_out(client, began, 8)


def test_a_slow_body_that_goes_on_is_waited_for(hasty, connect, upstream, key):
    hasty.wait_for_version(current_version())
    body = ask("gpt", user="u" * 4000)
    request = post(key, body)
    client = connect(hasty.port)
    head = len(request) - len(body)
    client.sendall(request[:head])
    for start in range(head, len(request), 500):
        time.sleep(0.4)
        client.sendall(request[start : start + 500])
    assert Answers(client).next()[0] == 200


# What is no HTTP


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS to a port that speaks none
        b"GARBAGE\r\n\r\n",
        b"POST /v1/chat/completions HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/models HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["tls", "garbage", "version", "header", "length", "chunk", "chunk to Django"],
)
def test_malformed_http_gets_the_error_object_and_an_end(connect, live, sent):
    client = connect()
    client.sendall(sent)
    answers = Answers(client)
    status, headers, body = answers.next()
    error = json.loads(body)["error"]
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/json", "close")
    assert (error["code"], error["type"]) == ("malformed_http", "invalid_request_error")
    assert error["request_id"] == headers["x-request-id"]
    assert answers.ended()
