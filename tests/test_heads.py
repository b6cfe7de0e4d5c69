"""What stands before a body, and behind it: bounded as it arrives, and only the head holds headers."""

import contextlib
import json
import socket

import pytest

from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, ask
from tests.raw_client import GET_HEALTH, PATH, Answers, post, statuses

KB = 1024
DOORS = {"fast_lane": (), "drf": (f"Origin: {ORIGIN}",)}


@pytest.fixture
def key(published, upstream):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, plaintext = make_key()
    published()
    return plaintext


@pytest.fixture(params=sorted(DOORS))
def door_lines(request):
    return DOORS[request.param]


def sent_until_refused(client, piece, most):
    """How many bytes it takes until the answer is there; it may not take more than `most`."""
    client.setblocking(False)
    sent = 0
    while sent < most:
        with contextlib.suppress(BlockingIOError):
            sent += client.send(piece)
        with contextlib.suppress(BlockingIOError):
            if client.recv(1, socket.MSG_PEEK):
                break
    client.settimeout(10)
    return sent


def refused(client):
    answers = Answers(client)
    status, headers, body = answers.next()
    assert headers["connection"] == "close"
    assert answers.ended()
    return status, json.loads(body)["error"]["code"]


ENDLESS = {
    "one header": (b"x: ", b"a" * 64 * KB, (431, "headers_too_large")),
    "a name": (b"", b"a" * 64 * KB, (431, "headers_too_large")),
    "many headers": (b"", b"a: b\r\n" * KB, (431, "headers_too_large")),
    "one folded header": (b"x: a\r\n", b" a\r\n" * KB, (400, "malformed_http")),
}


@pytest.mark.parametrize("path", [PATH, "/admin/login/", "/health", "/nothing"])
@pytest.mark.parametrize("kind", ENDLESS)
def test_a_head_without_end_is_refused_as_it_arrives(connect, live, path, kind):
    begin, piece, expected = ENDLESS[kind]
    client = connect()
    client.sendall(f"POST {path} HTTP/1.1\r\nhost: localhost\r\n".encode() + begin)
    sent_until_refused(client, piece, 68 * KB * KB)
    assert refused(client) == expected


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_url_without_end_is_refused_as_it_arrives(connect, live, method):
    client = connect()
    client.sendall(f"{method} {PATH}?".encode())
    sent_until_refused(client, b"a" * 64 * KB, 30 * KB * KB)
    assert refused(client) == (414, "url_too_long")


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["X: " + "x" * 60 * KB], 200),
        (["X: " + "x" * 66 * KB], 431),
        ([f"X-{number}: x" for number in range(190)], 200),
        ([f"X-{number}: x" for number in range(200)], 431),
        (["X: " + "x" * 700] * 90, 200),
        (["X: " + "x" * 700] * 100, 431),
    ],
    ids=["60 KB", "66 KB", "190 lines", "200 lines", "64,000 in lines", "71,000 in lines"],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in pieces"])
def test_a_large_head_is_served_up_to_the_bound(connect, key, door_lines, lines, status, at_once):
    client = connect()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    request = post(key, None, *lines, *door_lines)
    for start in range(0, len(request), len(request) if at_once else 1500):
        with contextlib.suppress(ConnectionError):
            client.sendall(request[start : start + (len(request) if at_once else 1500)])
    assert statuses(client, 1) == [status]


def test_a_large_head_right_behind_a_large_body_is_bounded_as_well(connect, upstream, key):
    client = connect()
    large = ask("gpt", messages=[{"role": "user", "content": "u" * 100_000}])
    client.sendall(post(key, large) + post(key, None, "X: " + "x" * 70 * KB))
    answers = Answers(client)
    assert answers.next()[0] == 200
    if line := answers.file.readline():  # else the first answer had begun, and ended the connection
        assert b" 431 " in line
    assert len(upstream.calls("p1")) == 1


TRAILERS = {
    "one trailer": (b"0\r\nx: ", b"a" * 64 * KB),
    "many trailers": (b"0\r\n", b"a: b\r\n" * KB),
    "an extension": (b"1;", b"a" * 64 * KB),
}


@pytest.mark.parametrize("path", [PATH, "/admin/login/"])
@pytest.mark.parametrize("kind", TRAILERS)
def test_what_stands_around_a_body_is_bounded_as_it_arrives(connect, key, path, kind):
    begin, piece = TRAILERS[kind]
    client = connect()
    client.sendall(post(key, b"", "Transfer-Encoding: chunked", path=path, length=False) + begin)
    sent = sent_until_refused(client, piece, 8 * KB * KB)
    assert sent < 8 * KB * KB
    assert Answers(client).next()[0] in (400, 431)


def test_trailers_are_no_headers(connect, key, door_lines):
    body = ask("gpt")
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", "Transfer-Encoding: chunked", *door_lines]
    request = "\r\n".join([*lines, "", ""]).encode() + b"%x\r\n%b\r\n" % (len(body), body)
    client = connect()
    client.sendall(request + f"0\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
    assert statuses(client, 1) == [401]


def test_trailers_do_not_harm_a_good_request(connect, key, door_lines):
    body = ask("gpt")
    request = post(key, b"", "Transfer-Encoding: chunked", *door_lines, length=False)
    client = connect()
    client.sendall(request + b"%x;a=b\r\n%b\r\n0\r\nX-Sum: 1\r\n\r\n" % (len(body), body) + GET_HEALTH)
    assert statuses(client, 2) == [200, 200]


@pytest.mark.parametrize("path", [PATH, "/admin/login/", "/v1/models"])
def test_http_1_1_without_a_host_is_refused(connect, key, path):
    client = connect()
    client.sendall(f"GET {path} HTTP/1.1\r\nauthorization: Bearer {key}\r\n\r\n".encode())
    assert refused(client) == (400, "missing_host")


def test_http_1_0_needs_no_host(connect, live):
    client = connect()
    client.sendall(b"GET /health/liveliness HTTP/1.0\r\n\r\n")
    assert statuses(client, 1) == [200]


def test_a_second_host_is_refused(connect, key):
    client = connect()
    client.sendall(post(key, None, "Host: localhost"))
    assert refused(client)[0] == 400


@pytest.mark.parametrize(
    "name", ["Authorization", "x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key"]
)
@pytest.mark.parametrize("path", [PATH, "/v1/models"])
def test_two_different_credentials_of_one_name_are_refused(connect, key, door_lines, path, name):
    client = connect()
    lines = (f"{name}: Bearer one", f"{name.upper()}: Bearer two")
    client.sendall(post(key, None, *lines, *door_lines, path=path))
    status, _, body = Answers(client).next()
    assert (status, json.loads(body)["error"]["param"]) == (400, name.lower())
    assert b"one" not in body


def test_the_same_credential_twice_is_one(connect, key, door_lines):
    client = connect()
    client.sendall(post(key, None, f"Authorization: Bearer {key}", *door_lines))
    assert statuses(client, 1) == [200]


def test_tags_in_two_lines_are_one_list(door, key, logged):
    headers = [("authorization", f"Bearer {key}"), ("x-litellm-tags", "a, b"), ("x-litellm-tags", "c")]
    answer = door.client.post(PATH, headers=headers + list(door.headers.items()), content=ask("gpt"))
    assert answer.status_code == 200
    assert logged(answer).tags == ["a", "b", "c"]


def test_more_than_a_hundred_requests_at_once_are_refused(connect, live):
    client = connect()
    client.sendall(GET_HEALTH * 5000)
    count = 0
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            count += part.count(b"HTTP/1.1 200 ")
    assert 0 < count < 2000
