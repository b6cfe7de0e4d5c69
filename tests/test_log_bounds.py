"""What strangers can make the gateway write into its log."""

import contextlib
import logging
import time

import pytest

from gateway_project.log_bounds import LINES_A_MINUTE, BoundedLines
from tests.raw_client import GET_HEALTH, statuses

MANY = 60


def lines(start, *more, body=b""):
    return "\r\n".join([f"{start} HTTP/1.1", *more, "", ""]).encode() + body


KINDS = {
    "a wrong host": lines("GET /admin/login/", "host: evil.example"),
    "a wrong host, at the second door": lines(
        "POST /v1/chat/completions", "host: evil.example", "origin: x", "content-length: 1", body=b"x"
    ),
    "an unknown path": lines("GET /nothing", "host: localhost"),
    "a null in the path": lines("GET /admin/%00/", "host: localhost"),
    "no text in the path": lines("GET /admin/%ff/?a=%ff", "host: localhost"),
    "an upgrade": lines("GET /admin/login/", "host: localhost", "connection: upgrade", "upgrade: h2c"),
    "a websocket": lines("GET /v1/responses", "host: localhost", "connection: upgrade", "upgrade: websocket"),
    "no http": b"\x16\x03\x01\x02\x00\x01\x00",
    "no host": lines("GET /admin/login/"),
    "no csrf token": lines("POST /admin/login/", "host: localhost", "content-length: 3", body=b"a=b"),
    "a form of nonsense": lines(
        "POST /admin/login/",
        "host: localhost",
        "content-type: multipart/form-data; boundary=",
        "content-length: 3",
        body=b"a=b",
    ),
    "too many fields": lines(
        "POST /admin/login/",
        "host: localhost",
        "content-type: application/x-www-form-urlencoded",
        "content-length: 4000",
        body=b"a=1&" * 1000,
    ),
    "a form of another charset": lines(
        "POST /admin/login/",
        "host: localhost",
        "content-type: application/x-www-form-urlencoded; charset=utf-16",
        "content-length: 10",
        body=b"username=a",
    ),
    "a wrong method": lines("DELETE /admin/login/", "host: localhost"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stranger_writes_few_lines_and_no_traceback(connect, live, kind):
    before = len(live.log.read_text())
    for _ in range(MANY):
        client = connect()
        client.sendall(KINDS[kind])
        with contextlib.suppress(ConnectionError):
            client.recv(65536)
        client.close()
    client = connect()
    client.sendall(GET_HEALTH)
    assert statuses(client, 1) == [200]
    written = live.log.read_text()[before:]
    assert "Traceback" not in written
    assert len(written.splitlines()) <= 2 * LINES_A_MINUTE + 2, written[-2000:]


def record(message="Not Found: %s", name="django.request", level=logging.WARNING, **more):
    values = {"name": name, "levelno": level, "msg": message, "args": ("/x",), **more}
    return logging.makeLogRecord(values)


def test_the_next_line_says_how_many_were_left_out():
    now = 0.0
    bounds = BoundedLines(clock=lambda: now)
    assert [bounds.filter(record()) for _ in range(100)].count(True) == LINES_A_MINUTE
    now = 61.0
    later = record()
    assert bounds.filter(later)
    assert later.getMessage() == f"Not Found: /x (and {100 - LINES_A_MINUTE} more lines like this)"


def test_each_level_and_each_logger_has_lines_of_its_own():
    bounds = BoundedLines(clock=time.monotonic)
    for _ in range(100):
        bounds.filter(record())
    assert bounds.filter(record(level=logging.ERROR))
    assert all(bounds.filter(record(name="proxy.engine")) for _ in range(100))
