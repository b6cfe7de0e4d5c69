"""What a client offers and the gateway may leave: the request is served as if nothing had been offered."""

import json
import shutil
import subprocess

import pytest

from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN, ask
from tests.raw_client import GET_HEALTH, Answers, post, statuses

H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
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


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_offer_of_http_2_is_left(connect, upstream, key, door_lines, stream):
    body = ask("gpt", stream=stream, user="u" * 50)
    client = connect()
    client.sendall(post(key, body, *H2C, *door_lines) * 2 + post(key, body, *door_lines))
    assert statuses(client, 3) == [200, 200, 200]
    assert [call.json["user"] for call in upstream.calls("p1")] == ["u" * 50] * 3
    assert {"upgrade", "http2-settings"}.isdisjoint(upstream.calls("p1")[0].headers)


def test_the_body_may_come_later_and_in_chunks(connect, upstream, key, door_lines):
    body = ask("gpt", user="u")
    head = post(key, b"", "Transfer-Encoding: chunked", *H2C, *door_lines, length=False)
    client = connect()
    for byte in head:
        client.send(bytes([byte]))
    client.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + GET_HEALTH)
    assert statuses(client, 2) == [200, 200]
    assert upstream.calls("p1")[0].json["user"] == "u"


@pytest.mark.parametrize("path", ["/admin/login/", "/health/liveliness", "/v1/models", "/status"])
def test_pages_leave_it_too(connect, key, path):
    lines = "\r\n".join(("Host: localhost", f"Authorization: Bearer {key}"))
    plain = f"GET {path} HTTP/1.1\r\n{lines}\r\n\r\n".encode()
    offer = plain[:-2] + "\r\n".join((*H2C, "", "")).encode()
    client = connect()
    client.sendall(plain + offer + GET_HEALTH)
    found = statuses(client, 3)
    assert found[0] == found[1]
    assert found[2] == 200


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: upgrade", "Upgrade: TLS/1.0"),
        ("Connection: keep-alive, Upgrade", "Upgrade: h2c, websocket"),
        ("Upgrade: h2c",),
        ("Expect: something-else",),
        ("Expect: 100-continue",),
        ("TE: trailers, deflate", "Connection: TE"),
        ("Accept-Encoding: br, zstd, gzip",),
        ("Prefer: respond-async",),
        ("Early-Data: 1",),
    ],
    ids=" + ".join,
)
def test_other_offers_change_nothing(connect, key, door_lines, lines):
    client = connect()
    client.sendall(post(key, None, *lines, *door_lines) + post(key))
    answers = Answers(client)
    found = [answers.next()[0] for _ in range(2)]
    assert [status for status in found if status != 100] == [200] * found.count(200)
    assert found.count(200) >= 1


def test_an_expectation_of_http_1_0_is_left(connect, key):
    client = connect()
    client.sendall(post(key, None, "Expect: 100-continue", version="1.0"))
    assert statuses(client, 1) == [200]


def test_only_an_accepted_client_is_told_to_send_its_body(connect, key, door_lines):
    client = connect()
    client.sendall(post("wrong", b"x" * 1000, "Expect: 100-continue", *door_lines)[:-1000])
    assert statuses(client, 1) == [401]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/realtime?model=gpt"])
def test_a_websocket_gets_426_at_once(connect, key, path):
    client = connect()
    lines = (
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: eA==",
    )
    client.sendall(post(key, b"", *lines, path=path, method="GET", length=False))
    answers = Answers(client)
    status, headers, body = answers.next()
    assert (status, headers["connection"], bool(headers["upgrade"])) == (426, "close", True)
    assert json.loads(body)["error"]["type"] == "invalid_request_error"
    assert answers.ended()


def test_this_is_no_proxy(connect, live):
    client = connect()
    client.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n")
    assert statuses(client, 1) == [405]


@pytest.mark.parametrize("lines", DOORS.values(), ids=list(DOORS))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_http_1_0_gets_no_chunks_at_either_door(connect, key, lines, stream):
    client = connect()
    client.sendall(post(key, ask("gpt", stream=stream), *lines, version="1.0"))
    answers = Answers(client)
    status, headers, body = answers.next()
    assert (status, headers.get("transfer-encoding")) == (200, None)
    assert body.endswith(b"data: [DONE]\n\n" if stream else b"}")
    assert answers.ended()


JAVA = """
import java.net.URI;
import java.net.http.*;

public class Ask {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < 2; i++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
                .header("content-type", "application/json")
                .header("authorization", "Bearer " + args[1])
                .POST(HttpRequest.BodyPublishers.ofString(args[2])).build();
            HttpResponse<String> answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
        }
    }
}
"""


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_stock_java_client_is_served(live, upstream, key, tmp_path, stream):
    source = tmp_path / "Ask.java"
    source.write_text(JAVA)
    command = [
        "java",
        str(source),
        f"{live.url}/v1/chat/completions",
        key,
        ask("gpt", stream=stream).decode(),
    ]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert told.count("200 HTTP_1_1 ") == 2
    assert len(upstream.calls("p1")) == 2
