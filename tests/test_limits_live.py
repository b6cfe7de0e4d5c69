"""Limits as callers meet them: two web processes, real Redis, hang-ups, kills and outages under load."""

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from django.db.models import Sum

from tests.conftest import TEST_DATABASE
from tests.environment import DATA_DIR
from tests.factories import make_fallback, make_key, make_provider, make_route, make_target
from tests.live import LiveGateway, ask, until
from tests.optional import needs
from tests.services import RedisServer
from tests.upstream import Answer, completion, events

pytestmark = [needs("Redis"), pytest.mark.django_db(transaction=True)]

LEASE = 3
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "1.5"))  # of Redis
LIMITED = ("route", "target", "provider")
JITTER_SECONDS = 1.0  # from admission to the provider, on a busy machine
_numbers = itertools.count(1)


def start_gateway(redis_server: Any, **env: str) -> LiveGateway:
    directory = DATA_DIR / f"limits-{next(_numbers)}"
    directory.mkdir()
    settings = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "REDIS_URL": redis_server.url,
        "REDIS_TIMEOUT_MS": "1000",  # many processes share few cores here
        "LIMITS_LEASE_SECONDS": str(LEASE),
    }
    return LiveGateway(directory, settings | env).start()


@pytest.fixture(scope="module")
def pair(redis_server: Any, django_db_setup: None) -> Iterator[list[LiveGateway]]:
    """Two web processes that fall back to their own counts while Redis is away."""
    redis_server.client.flushall()
    gateways = [start_gateway(redis_server) for _ in range(2)]
    yield gateways
    for gateway in gateways:
        gateway.stop()


def serve_now(*gateways: LiveGateway) -> None:
    """Waits until the processes serve what the database says, and Redis counts for them."""
    from routing.compiler import current_version

    for gateway in gateways:
        for _ in range(8):  # of several workers each answers some
            gateway.wait_for_version(current_version())
        until(lambda gateway=gateway: gateway.readiness()["limits"]["kept"] == "in Redis", "Redis counts")


def serve(upstream: Any, gateways: list[LiveGateway], *, retries: int = 0, **limits: Any) -> tuple[Any, str]:
    """A route gpt; an answer token costs 10 USD per million, a prompt nothing. Returns the key."""
    provider = make_provider(base_url=upstream.url("p"), retries=retries)
    make_target(route=make_route(name="gpt"), provider=provider, input_price="0", output_price="10")
    row, key = make_key(**limits)
    serve_now(*gateways)
    return row, key


async def _one(session: Any, url: str, key: str, patience: float, **body: Any) -> Any:
    """The status; "gone" where this client hung up, "broken" where the connection was cut."""
    timeout = aiohttp.ClientTimeout(total=patience)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    address = f"{url}/v1/chat/completions"
    try:
        async with session.post(address, data=ask("gpt", **body), headers=headers, timeout=timeout) as answer:
            await answer.read()
            return answer.status
    except TimeoutError:
        return "gone"
    except aiohttp.ClientError:
        return "broken"


def storm(
    gateways: list[LiveGateway], key: str, calls: list[dict[str, Any]], patience: Any = None
) -> Counter:
    """All calls at once, spread over the gateways. `patience(number)` in seconds, or None."""

    async def run() -> list[Any]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return await asyncio.gather(
                *(
                    _one(
                        session,
                        gateways[number % len(gateways)].url,
                        key,
                        (patience(number) if patience else None) or 60,
                        **body,
                    )
                    for number, body in enumerate(calls)
                )
            )

    return Counter(asyncio.run(run()))


def most_in_a_minute(times: list[float]) -> int:
    """As the provider sees it; a request that is admitted in one minute may arrive in the next."""
    times = sorted(times)
    return max(sum(start <= at < start + 60 - JITTER_SECONDS for at in times) for start in times)


def in_redis(redis_server: Any, row: Any) -> dict[str, int]:
    found = redis_server.client.hgetall(f"{{switchstand}}:key:{row.pk}:b:total")
    return {name.decode(): int(value) for name, value in found.items()}


def logged_cost(row: Any) -> int:
    from monitoring.models import RequestLog

    rows = RequestLog.objects.filter(key_id=row.pk)
    return rows.aggregate(total=Sum("cost_nano_usd"))["total"] or 0


def nothing_held(redis_server: Any, row: Any) -> bool:
    counted = in_redis(redis_server, row)
    return counted.get("r", 0) == 0 and not any(name.startswith("h:") for name in counted)


def used(tokens: int) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": 10 + tokens}
    return completion(usage=usage)


def test_one_script_call_per_request(upstream, pair, redis_server):
    row, key = serve(upstream, pair, rpm=1000, tpm=10**6, parallel=100, budget_usd="50")
    storm(pair, key, [{}] * 2)
    until(lambda: nothing_held(redis_server, row), "both scripts have run")
    with monitored(redis_server) as lines:
        assert storm(pair, key, [{}] * 60) == {200: 60}
        time.sleep(0.5)
    from proxy.admission.redis.scripts import ADMIT, SETTLE

    scripts = Counter(sha for line in lines for sha in re.findall(r' "EVALSHA" "(\w+)"', line, re.IGNORECASE))
    assert scripts[ADMIT.sha] == 60
    assert set(scripts) == {ADMIT.sha, SETTLE.sha}
    assert scripts[SETTLE.sha] <= 60  # many are settled by one call, off the request path


@contextlib.contextmanager
def monitored(server: RedisServer) -> Iterator[list[str]]:
    """What Redis was asked meanwhile, by MONITOR on a socket of its own; scripts' own commands left out."""
    lines: list[str] = []
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as link:
        answers = link.makefile("r", errors="replace")
        link.sendall(b"MONITOR\r\n")
        assert answers.readline() == "+OK\n"
        yield lines
        end = uuid.uuid4().hex  # no text that a script has, which a line may hold whole
        server.client.echo(end)
        while end not in (line := answers.readline()):
            if " lua] " not in line:
                lines.append(line)


def test_a_budget_is_never_overspent_whatever_happens_to_its_calls(upstream, pair, redis_server):
    row, key = serve(upstream, pair, budget_usd="1")
    answers = [
        Answer(body=used(137), delay=0.05),
        Answer(body=used(1000), delay=0.3),
        Answer(cut="before_headers", delay=0.1),
        Answer(status=500, body={"error": {"message": "broken"}}, delay=0.1),
        Answer(body=used(700), cut="mid_body", delay=0.1),
    ]
    upstream.script("p", *(answers[number % len(answers)] for number in range(500)))
    calls = [{"max_tokens": 1000}] * 500
    found = storm(pair, key, calls, patience=lambda number: 0.25 if number % 7 == 0 else None)
    assert found[429] >= 300  # a hundred calls of 0.01 USD at once
    assert set(found) <= {200, 429, 502, "gone"}
    until(lambda: nothing_held(redis_server, row), lambda: f"all is settled: {in_redis(redis_server, row)}")
    spent = in_redis(redis_server, row)["s"]
    assert 0 < spent <= 10**9
    until(lambda: logged_cost(row) == spent, lambda: f"{logged_cost(row)} logged, {spent} counted")

    # What was reserved and not spent is usable again, down to the last call that fits.
    upstream.always("p", Answer(body=used(999)))
    upstream.script("p")
    while storm(pair, key, [{"max_tokens": 1000}] * 5)[200]:
        until(lambda: nothing_held(redis_server, row), "all is settled")
    left = 10**9 - in_redis(redis_server, row)["s"]
    assert 0 <= left < 10**7
    refused = storm(pair, key, [{"max_tokens": 1000}])
    assert refused == {429: 1}


def test_streams_that_break_or_are_left_settle_their_budget(upstream, pair, redis_server):
    row, key = serve(upstream, pair, budget_usd="1")
    whole = Answer(chunks=events(*"abcdefgh", usage=True), gap=0.02)
    cut = Answer(chunks=events(*"abcd", done=False, finish=False), cut="after_chunks", reset=True)
    slow = Answer(chunks=events(*"abcdefgh"), gap=0.5)
    upstream.script("p", *(kind for _ in range(20) for kind in (whole, cut, slow)))
    calls = [{"max_tokens": 1000, "stream": True}] * 60
    found = storm(pair, key, calls, patience=lambda number: 2.5)
    assert found[200] >= 20
    until(lambda: nothing_held(redis_server, row), lambda: f"all is settled: {in_redis(redis_server, row)}")
    until(
        lambda: logged_cost(row) == in_redis(redis_server, row)["s"],
        lambda: f"{logged_cost(row)} logged, {in_redis(redis_server, row)} counted",
    )


def test_what_a_killed_process_held_comes_back_and_its_calls_cost_what_was_reserved(
    upstream, pair, redis_server
):
    row, key = serve(upstream, pair, budget_usd="0.20", parallel=10)
    doomed = start_gateway(redis_server)
    serve_now(doomed)
    upstream.always("p", Answer(body=used(1000), delay=20))
    calls = threading.Thread(target=storm, args=([doomed], key, [{"max_tokens": 1000}] * 10))
    calls.start()
    until(lambda: in_redis(redis_server, row).get("r") == 10**8, "half of the budget is reserved")
    time.sleep(LEASE + 1)  # renewed for as long as the process lives
    assert storm(pair, key, [{"max_tokens": 1000}] * 2) == {429: 2}
    doomed.stop(signal.SIGKILL)
    calls.join(10)
    upstream.always("p", Answer(body=used(500)))
    until(lambda: storm(pair, key, [{"max_tokens": 1000}])[200], "there is room again", LEASE + 3)
    assert storm(pair, key, [{"max_tokens": 1000}] * 5) == {200: 5}
    until(lambda: nothing_held(redis_server, row), "all is settled")
    assert in_redis(redis_server, row)["s"] == 10**8 + 6 * 5_000_000
    until(lambda: logged_cost(row) == 10**8 + 6 * 5_000_000, "the log says the same")


class Load:
    """Callers that go on until they are told to stop; every status they got."""

    def __init__(self, gateways: list[LiveGateway], key: str, callers: int, **body: Any) -> None:
        self.found: Counter = Counter()
        self._stop = False
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(gateways, key, callers, body)))
        self._thread.start()

    async def _run(self, gateways: Any, key: str, callers: int, body: Any) -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(
                *(self._call(session, gateways[i % len(gateways)].url, key, body) for i in range(callers))
            )

    async def _call(self, session: Any, url: str, key: str, body: Any) -> None:
        while not self._stop:
            self.found[await _one(session, url, key, 30, **body)] += 1
            await asyncio.sleep(0.03)

    def stop(self) -> Counter:
        self._stop = True
        self._thread.join(40)
        return self.found


def test_redis_killed_and_restarted_under_load(upstream, pair, redis_server):
    """Open: no caller sees it; afterwards the counts are right though Redis forgot them."""
    row, key = serve(upstream, pair, rpm=100_000, budget_usd="50")
    upstream.always("p", Answer(body=used(100), delay=0.02))
    load = Load(pair, key, 12, max_tokens=1000)
    time.sleep(1)
    redis_server.stop()
    time.sleep(OUTAGE_SECONDS)
    assert {gateway.readiness()["limits"]["kept"] for gateway in pair} == {"in this process"}
    redis_server.start()
    time.sleep(4)
    found = load.stop()
    assert set(found) == {200}, found
    assert {gateway.readiness()["limits"]["kept"] for gateway in pair} == {"in Redis"}
    until(lambda: nothing_held(redis_server, row), lambda: f"all is settled: {in_redis(redis_server, row)}")
    until(
        lambda: in_redis(redis_server, row)["s"] == logged_cost(row) == found[200] * 1_000_000,
        lambda: f"{in_redis(redis_server, row)} counted, {logged_cost(row)} logged, {found}",
    )


def test_requests_of_the_last_minute_still_count_after_redis_forgot_them(upstream, pair, redis_server):
    _, key = serve(upstream, pair, rpm=100)
    assert storm(pair, key, [{}] * 70) == {200: 70}
    redis_server.stop()
    redis_server.start()
    serve_now(*pair)
    assert storm(pair, key, [{}] * 70) == {200: 30, 429: 40}
    assert most_in_a_minute([seen.at for seen in upstream.calls("p")]) == 100


def test_a_redis_that_never_answers_costs_one_deadline_and_then_nothing(upstream, pair, redis_server):
    row, key = serve(upstream, pair, rpm=100_000, budget_usd="50")
    upstream.always("p", Answer(body=used(100)))
    before = [gateway.log.read_text() for gateway in pair]
    load = Load(pair, key, 8, max_tokens=1000)
    time.sleep(0.5)
    redis_server.freeze()
    try:
        until(
            lambda: {gateway.readiness()["limits"]["kept"] for gateway in pair} == {"in this process"},
            "the circuit is open",
        )
        began = time.monotonic()
        assert storm(pair, key, [{"max_tokens": 1000}] * 20) == {200: 20}
        assert time.monotonic() - began < 1  # nobody waits for the deadline any more
        time.sleep(OUTAGE_SECONDS)
    finally:
        redis_server.thaw()
    serve_now(*pair)
    time.sleep(0.5)
    found = load.stop()
    assert set(found) == {200}, found
    until(
        lambda: nothing_held(redis_server, row), lambda: f"all is settled: {in_redis(redis_server, row)}", 15
    )
    until(
        lambda: in_redis(redis_server, row)["s"] == logged_cost(row) == (found[200] + 20) * 1_000_000,
        lambda: f"{in_redis(redis_server, row)} counted, {logged_cost(row)} logged, {found}",
    )
    for gateway, earlier in zip(pair, before, strict=True):
        told = gateway.log.read_text()[len(earlier) :]
        assert told.count("Redis is away") == 1  # one line for each change, not for each request
        assert told.count("Redis counts the limits") == 1


def test_closed_refuses_limited_calls_while_redis_is_away(upstream, redis_server):
    gateway = start_gateway(redis_server, LIMITS_WITHOUT_REDIS="closed")
    try:
        _, key = serve(upstream, [gateway], rpm=1000)
        _, free = make_key()
        serve_now(gateway)
        redis_server.freeze()
        try:
            until(
                lambda: gateway.readiness()["limits"]["problem"] or storm([gateway], key, [{}]), "it is seen"
            )
            until(lambda: gateway.readiness()["limits"]["problem"], "it is seen")
            assert storm([gateway], key, [{}] * 5) == {503: 5}
            assert storm([gateway], free, [{}] * 5) == {200: 5}
            assert "refused" in gateway.readiness()["limits"]["kept"]
        finally:
            redis_server.thaw()
        serve_now(gateway)
        assert storm([gateway], key, [{}] * 5) == {200: 5}
    finally:
        gateway.stop()


def test_spending_survives_restarts_and_a_redis_that_lost_it(upstream, redis_server):
    gateway = start_gateway(redis_server)
    row, key = serve(upstream, [gateway], budget_usd="0.05")
    upstream.always("p", Answer(body=used(1000)))
    for forgets, let_through in ((False, 2), (True, 2), (True, 1), (True, 0)):
        serve_now(gateway)
        assert storm([gateway], key, [{"max_tokens": 1000}] * 2)[200] == let_through
        until(lambda: nothing_held(redis_server, row), "all is settled")
        gateway.stop()
        if forgets:
            redis_server.client.flushall()
        gateway.start()
    gateway.stop()
    assert logged_cost(row) == 5 * 10**7


def test_the_answer_is_bounded_by_what_was_reserved(upstream, pair):
    _, key = serve(upstream, pair, budget_usd="1")
    assert storm(pair, key, [{}]) == {200: 1}
    assert storm(pair, key, [{"max_tokens": 7}]) == {200: 1}
    bodies = [json.loads(seen.body) for seen in upstream.calls("p")]
    assert [body.get("max_tokens") for body in bodies] == [4096, 7]


@pytest.mark.parametrize("limit", ["route", "target", "provider"])
def test_limits_of_a_fallback_hold_in_redis_too(upstream, pair, redis_server, limit):
    """Though neither the key nor the route that was asked for has any: two processes share them."""
    ill = make_provider(slug="ill", base_url=upstream.url("ill"), retries=0)
    gpt = make_route(name="gpt")
    make_target(route=gpt, provider=ill)
    upstream.always("ill", Answer(status=500, body={}))
    for position, slug in enumerate(("small", "large")):
        limits = {name: {"rpm": 7} if (slug, name) == ("small", limit) else {} for name in LIMITED}
        route = make_route(name=slug, **limits["route"])
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=0, **limits["provider"])
        make_target(route=route, provider=provider, **limits["target"])
        make_fallback(gpt, route, kind="error", position=position)
    _, key = make_key()
    serve_now(*pair)
    assert storm(pair, key, [{}] * 40) == {200: 40}
    assert len(upstream.calls("small")) == 7
    assert len(upstream.calls("large")) == 33


def test_a_fallbacks_budget_is_reserved_and_settled_in_redis(upstream, pair, redis_server):
    ill = make_provider(slug="ill", base_url=upstream.url("ill"), retries=0)
    gpt, dear = make_route(name="gpt"), make_route(name="dear", budget_usd="0.05")
    make_target(route=gpt, provider=ill, input_price="0", output_price="10")
    provider = make_provider(slug="dear", base_url=upstream.url("dear"), retries=0)
    make_target(route=dear, provider=provider, input_price="0", output_price="10")
    make_fallback(gpt, dear, kind="error")
    upstream.always("ill", Answer(status=500, body={}))
    upstream.always("dear", Answer(body=used(1000), delay=0.2))
    _, key = make_key()
    serve_now(*pair)
    found = storm(pair, key, [{"max_tokens": 1000}] * 30)
    assert found[200] == len(upstream.calls("dear")) == 5  # of 0.01 USD each
    name = f"{{switchstand}}:route:{dear.pk}:b:total"

    def counted():
        return {field: int(value) for field, value in redis_server.client.hgetall(name).items()}

    until(lambda: counted().get(b"r") == 0, lambda: f"nothing is held: {counted()}")
    assert counted()[b"s"] == 5 * 10**7


def test_a_process_that_ends_in_order_leaves_the_counters_alone(upstream, pair, redis_server):
    """Read again, they would miss what other machines have not shipped yet."""
    leaving = start_gateway(redis_server)
    row, key = serve(upstream, [*pair, leaving], budget_usd="1")
    upstream.always("p", Answer(body=used(100)))
    assert storm([*pair, leaving], key, [{"max_tokens": 1000}] * 30) == {200: 30}
    until(lambda: nothing_held(redis_server, row), "all is settled")
    leaving.stop()
    assert not list(leaving.journal.glob("*.journal"))
    assert in_redis(redis_server, row)["s"] == 30 * 1_000_000
