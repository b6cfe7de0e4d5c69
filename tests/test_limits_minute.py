"""A limit per minute over more than a minute, apart from test_limits_live.py: workers share the files out."""

import time

import pytest

from tests.optional import needs
from tests.test_limits_live import most_in_a_minute, serve, start_gateway, storm

pytestmark = [needs("Redis"), pytest.mark.django_db(transaction=True)]


def test_400_callers_of_two_workers_never_get_more_than_100_in_a_minute(upstream, redis_server):
    gateway = start_gateway(redis_server, WEB_WORKERS="2")
    try:
        _, key = serve(upstream, [gateway], rpm=100)
        first = storm([gateway], key, [{}] * 400)
        assert first == {200: 100, 429: 300}
        began = min(seen.at for seen in upstream.calls("p"))
        while time.monotonic() < began + 62:
            storm([gateway], key, [{}] * 20)
            time.sleep(1)
        times = [seen.at for seen in upstream.calls("p")]
        assert most_in_a_minute(times) == 100
        assert len(times) > 100  # and the next minute's are let through
    finally:
        gateway.stop()
