"""One healthy target beside two faulty ones: no strategy lets a caller see a fault.

ONE_HEALTHY_REQUESTS=10000 sends so many JSON requests over 64 connections for each strategy.
"""

import itertools
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from routing.models import GatewaySettings, Provider
from routing.strategies import STRATEGIES
from tests.factories import make_key
from tests.failing_over import route_over
from tests.live import Door
from tests.upstream import Answer, completion

MANY = int(os.environ.get("ONE_HEALTHY_REQUESTS", "0"))
REQUESTS, CONNECTIONS = (MANY, 64) if MANY else (240, 24)
# Of the ill ones. The healthy one is waited for: on a busy machine it is slow as well, a thread beside them.
PATIENCE = 1.0 if MANY else 0.25
FAULTS = {
    "429 and a time": Answer(status=429, body={}, headers={"retry-after": "5"}),
    "429": Answer(status=429, body={}),
    "500": Answer(status=500, body={}),
    "503": Answer(status=503, body={}),
    "reset": Answer(cut="before_headers", reset=True),
    "stall": Answer(chunks=[], stall=8 * PATIENCE),
    "slow first byte": Answer(delay=8 * PATIENCE),
    "death in the stream": Answer(chunks=[], cut="after_chunks"),
    "death in the body": Answer(body=completion(), cut="mid_body"),
}


@pytest.mark.parametrize("breaker", [True, False], ids=["breaker", "no_breaker"])
@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_no_caller_sees_a_fault(live, upstream, published, strategy, breaker):
    if MANY and not breaker:
        pytest.skip("the figures are for a gateway with its circuit breakers")
    GatewaySettings.objects.update_or_create(
        pk=1, defaults={"breaker_enabled": breaker, "cooldown_seconds": 1}
    )
    provider = {"retries": 1, "max_connections": 200, "queue_timeout": 10, "read_timeout": PATIENCE}
    target = {} if strategy == "ordered" else {"priority": 1}
    route_over(upstream, "gpt", "ill1", "ill2", "well", strategy=strategy, provider=provider, target=target)
    Provider.objects.filter(slug="well").update(read_timeout=30)
    for slug, shift in (("ill1", 0), ("ill2", 4)):
        faults = itertools.cycle([*FAULTS.values()][shift:] + [*FAULTS.values()][:shift])
        upstream.script(slug, *itertools.islice(faults, 3 * REQUESTS))
    _, key = make_key()
    published()
    mine = threading.local()  # each thread has connections of its own

    def call(number):
        if not hasattr(mine, "doors"):
            mine.doors = [Door(name, live.url) for name in (["fast_lane"] if MANY else ["fast_lane", "drf"])]
        door = mine.doors[number % len(mine.doors)]
        answer = door.chat(key, stream=not MANY and number % 4 > 1, user=f"u{number}")
        whole = b"[DONE]" in answer.content or b"Hello!" in answer.content
        return answer.status_code if whole else answer.text

    started = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = Counter(pool.map(call, range(REQUESTS)))
    seconds = time.monotonic() - started
    asked = {slug: len(upstream.calls(slug)) for slug in ("ill1", "ill2", "well")}
    print(f"{strategy}: {REQUESTS} requests in {seconds:.1f} s, {dict(found)}, {asked}", flush=True)
    assert found == {200: REQUESTS}
    assert asked["well"] == REQUESTS
    assert asked["ill1"] + asked["ill2"] > 0
