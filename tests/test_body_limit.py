"""Bodies over MAX_BODY_BYTES: refused with an answer that the client gets to see."""

import socket

import pytest

from tests.factories import make_key

LIMIT = 20 * 1024 * 1024
PIECE = b"x" * 65536


@pytest.fixture
def key(published):
    _, plaintext = make_key()
    published()
    return plaintext


def pieces(size):
    yield from (PIECE for _ in range(size // len(PIECE)))


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_over_the_limit_is_answered_with_413(door, key, chunked):
    size = LIMIT + 10 * len(PIECE)
    content = pieces(size) if chunked else b"".join(pieces(size))
    headers = {"authorization": f"Bearer {key}"}
    answer = door.client.post("/v1/chat/completions", headers=headers, content=content)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"


def test_a_refused_body_is_answered_before_it_is_whole_and_read_to_its_end(live, key):
    size = LIMIT + 10 * len(PIECE)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
        for piece in pieces(size):  # a connection closed too early would be reset here
            client.sendall(piece)
        assert client.recv(65536) == b""
