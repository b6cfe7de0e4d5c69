"""What the control plane asks over HTTP: no answer is read for ever, and none is unpacked without bound."""

import gzip
import json
import socketserver
import threading
import time
import tracemalloc
import zlib

import pytest

from monitoring.alerts.channels.posting import post
from monitoring.health.probe import LONGEST_ANSWER
from monitoring.health.running import check_now
from monitoring.models import HealthCheck, RequestLog
from proxy.tracing.otlp import HeadsOnly
from tests.factories import make_provider
from tests.upstream import Answer, completion

MB = 1024 * 1024
pytestmark = pytest.mark.django_db(transaction=True)


class Endless:
    """Answers every request with a head and a body that goes on until the client has enough."""

    def __init__(self, head):
        self.sent, self.asked, endless = 0, 0, self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(65536)
                endless.asked += 1
                try:
                    self.request.sendall(head)
                    while endless.sent < 200 * MB:
                        endless.sent += self.request.send(b"x" * 65536)
                except OSError:
                    pass

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def endless():
    made = []

    def make(status=b"200 OK", *headers):
        lines = b"\r\n".join([b"HTTP/1.1 " + status, b"content-type: application/json", *headers])
        made.append(Endless(lines + b"\r\n\r\n"))
        return made[-1]

    yield make
    for server in made:
        server.close()


BUFFERS = 16 * MB  # what the two sockets may hold, whoever reads


@pytest.mark.parametrize("model", ["", "m"])
def test_a_check_reads_only_the_beginning_of_an_answer_without_end(endless, model):
    server = endless()
    provider = make_provider(slug="p", base_url=f"{server.url}/v1", health_model=model, health_timeout=10)
    [(result, status)] = check_now([provider])
    assert server.sent < BUFFERS
    if model:
        assert result.problem == f"answered with more than {LONGEST_ANSWER:,} bytes"
        assert RequestLog.objects.get().outcome == "upstream_failed"
    else:
        assert (result.problem, status) == ("", "healthy")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("model", ["", "m"])
def test_a_check_does_not_unpack_what_becomes_too_long(upstream, model, coding):
    bomb = (gzip if coding == "gzip" else zlib).compress(b" " * 60 * MB)
    provider = make_provider(slug="p", base_url=upstream.url("p"), health_model=model)
    upstream.always("p", Answer(body=bomb, headers={"content-encoding": coding}))
    tracemalloc.start()
    try:
        [(result, _)] = check_now([provider])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MB
    assert result.problem == (f"answered with more than {LONGEST_ANSWER:,} bytes" if model else "")


def test_a_check_reads_an_answer_that_is_compressed(upstream):
    provider = make_provider(slug="p", base_url=upstream.url("p"), health_model="m")
    body = gzip.compress(json.dumps(completion()).encode())
    upstream.always("p", Answer(body=body, headers={"content-encoding": "gzip"}))
    [(result, status)] = check_now([provider])
    assert (result.problem, status) == ("", "healthy")
    assert RequestLog.objects.get().output_tokens == 48


def test_a_check_of_an_unknown_coding_says_so(upstream):
    provider = make_provider(slug="p", base_url=upstream.url("p"), health_model="m")
    upstream.always("p", Answer(headers={"content-encoding": "br"}))
    check_now([provider])
    detail = HealthCheck.objects.get().detail
    assert detail == "answered in the content coding br, which is not read here"


def test_a_webhook_reads_no_answer(endless):
    server = endless()
    began = time.monotonic()
    post(server.url, b"{}", {}, 20)
    assert time.monotonic() - began < 15
    assert server.sent < BUFFERS


def test_nothing_of_what_a_collector_answers_is_read(endless):
    server = endless(b"200 OK", b"content-encoding: gzip")
    answer = HeadsOnly().post(server.url, data=b"x", timeout=20)
    assert (answer.status_code, answer.content) == (200, b"")
    assert server.sent < BUFFERS
