"""What a provider says about its bytes is believed before they are parsed; what is no answer is none."""

import gzip
import json
import zlib

import pytest

from tests.factories import make_key
from tests.failing_over import part, route_over, row_of, stream, tokens
from tests.upstream import USAGE, Answer, completion

PAGE = b"<!doctype html><html><body>Welcome</body></html>"
GOOD = b"".join(part(tokens(0, 40), id="one", usage=USAGE))
WHOLE = json.dumps(completion()).encode()
CODINGS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": lambda data: zlib.compress(data, wbits=-15),
}


@pytest.fixture
def gpt(upstream, published):
    def make(*slugs, **values):
        route_over(upstream, "gpt", *(slugs or ("p1",)), **values)
        _, plaintext = make_key()
        published()
        return plaintext

    return make


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "text/event-stream", "application/octet-stream", ""]
)
def test_a_page_is_no_stream(door, upstream, gpt, kind):
    key = gpt("p1", "p2")
    upstream.always("p1", Answer(chunks=[PAGE], headers={"content-type": kind}))
    told = stream(door, key)
    assert (told.answer.headers["x-proxy-provider"], told.dones) == ("p2", 1)
    upstream.always("p2", Answer(chunks=[PAGE], headers={"content-type": kind}))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert row_of(answer).outcome == "upstream_failed"


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "text/event-stream", "text/plain"])
def test_a_json_answer_to_a_streams_request_is_one_whatever_it_is_called(door, upstream, gpt, kind):
    key = gpt()
    upstream.always("p1", Answer(body=WHOLE, headers={"content-type": kind}))
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == completion()


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("asked", [False, True], ids=["whole", "stream"])
def test_a_compressed_answer_arrives_unpacked(door, upstream, gpt, coding, asked):
    key = gpt(provider={"stream_usage": "leave"})
    body = CODINGS[coding](GOOD if asked else WHOLE)
    headers = {"content-encoding": coding}
    if asked:
        sent = Answer(chunks=[body[at : at + 50] for at in range(0, len(body), 50)], headers=headers)
    else:
        sent = Answer(body=body, headers=headers)
    upstream.always("p1", sent)
    answer = door.chat(key, stream=asked or None)
    assert (answer.status_code, answer.content) == (200, GOOD if asked else WHOLE)
    assert "content-encoding" not in answer.headers
    assert len(upstream.calls("p1")) == 1


def test_a_compressed_error_tells_its_message(door, upstream, gpt):
    key = gpt()
    body = gzip.compress(b'{"error": {"message": "no such thing"}}')
    upstream.always("p1", Answer(status=404, body=body, headers={"content-encoding": "gzip"}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "no such thing")


@pytest.mark.parametrize("asked", [False, True], ids=["whole", "stream"])
def test_another_coding_is_a_clear_failure(door, upstream, gpt, asked):
    key = gpt()
    upstream.always("p1", Answer(headers={"content-encoding": "br"}))
    answer = door.chat(key, stream=asked or None)
    assert answer.status_code == 502
    message = "p1: answered in the content coding br, which is not read here."
    assert answer.json()["error"]["message"] == message


@pytest.mark.parametrize("asked", [False, True], ids=["whole", "stream"])
def test_what_unpacks_to_gigabytes_is_bounded(door, upstream, gpt, asked):
    key = gpt(provider={"max_answer_bytes": 1_000_000})
    bomb = gzip.compress(b"{" + b" " * 60_000_000)
    upstream.always("p1", Answer(body=bomb, headers={"content-encoding": "gzip"}))
    answer = door.chat(key, stream=asked or None)
    assert answer.status_code == 502
    assert "of more than 1,000,000 bytes, unpacked" in answer.json()["error"]["message"]


def test_a_cut_compressed_answer_is_no_success(door, upstream, gpt):
    key = gpt()
    upstream.always("p1", Answer(body=gzip.compress(WHOLE)[:-20], headers={"content-encoding": "gzip"}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")


MARKED = b"\xef\xbb\xbf" + WHOLE


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("application/json", MARKED, MARKED),
        ("application/json; charset=utf-16", WHOLE.decode().encode("utf-16"), WHOLE),
        ("application/json; charset=nonsense", WHOLE, WHOLE),
    ],
)
def test_bom_and_charset_are_read(door, upstream, gpt, kind, body, told):
    key = gpt()
    upstream.always("p1", Answer(body=body, headers={"content-type": kind}))
    answer = door.chat(key)
    assert (answer.status_code, answer.content) == (200, told)
