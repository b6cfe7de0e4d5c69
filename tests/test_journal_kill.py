"""kill -9 of the web process under load: each call that reached the provider has one row, paid once."""

import asyncio
import itertools
import json
import os
import random
import signal
from collections import Counter

import httpx
import pytest

from monitoring.budgets.spending import spent
from monitoring.models import RequestLog, RowSeal
from proxy.journal.reader import lives, workers
from routing.compiler import compile_table
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import LiveGateway, until
from tests.optional import needs
from tests.upstream import Answer

KILLS = int(os.environ.get("KILLS", "3"))
CLIENTS = 12


@pytest.fixture(params=["in_process", pytest.param("in_redis", marks=needs("Redis"))])
def own_gateway(request, tmp_path, own_log):
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "LIMITS_LEASE_SECONDS": "2"}
    if request.param == "in_redis":
        redis_server = request.getfixturevalue("redis_server")
        redis_server.client.flushall()
        env["REDIS_URL"] = redis_server.url
    gateway = LiveGateway(tmp_path, env)
    yield gateway
    gateway.stop()


@pytest.fixture
def budgeted(upstream):
    """A key with a budget, of a team with one; JSON and streams, quick and slow ones."""
    route = make_route(name="gpt", max_output_tokens=100)
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0)
    make_target(route=route, provider=provider, upstream_model="m", input_price="1", output_price="2")
    team = make_team(slug="search", budget_usd="1000")
    row, key = make_key(name="app", team=team, budget_usd="1000")
    upstream.always("p1", Answer(chunks=None, delay=0.01))
    # Some are slow, so that calls are open at each kill, also where the clients get no time to send more.
    upstream.script(
        "p1", *(Answer(delay=0.5 if number % 20 == 0 else 0.01) for number in range(1000 * KILLS))
    )
    return row, key


def test_kill_under_load_loses_and_doubles_nothing(own_gateway, upstream, budgeted):
    _, key = budgeted
    dice = random.Random(4)
    numbers = itertools.count()
    for _ in range(KILLS):
        gateway = own_gateway.start()
        asyncio.run(_load_until_killed(gateway, key, numbers, 0.3 + dice.random() * 0.7))
        _kill_web(gateway)
    gateway = own_gateway.start()
    until(lambda: not _left_over(gateway), "the dead processes' journals are shipped", 30)
    received = Counter(_name_in(seen) for seen in upstream.calls("p1"))
    rows = Counter(RequestLog.objects.exclude(outcome="refused").values_list("request_id", flat=True))
    assert len(received) > 10 * KILLS
    assert max(rows.values()) == 1
    assert received.keys() <= rows.keys(), "calls without a row"
    # What was opened and not sent yet when the kill came is unknown too: nobody can tell.
    extra = rows.keys() - received.keys()
    assert not RequestLog.objects.filter(request_id__in=extra).exclude(outcome="unknown").exists()
    unknown = RequestLog.objects.filter(outcome="unknown")
    assert unknown.count() > 0
    assert all(row.tokens_estimated and row.cost_nano_usd > 0 for row in unknown)
    assert gateway.readiness()["journal"]["calls_unknown"] == unknown.count()
    _check_books(gateway, key)
    print(
        f"{KILLS} kills: {len(received)} calls received by the provider, {len(rows)} rows ({unknown.count()} "
        f"unknown, {len(extra)} of them never sent), {len(received.keys() - rows.keys())} lost, "
        f"{sum(rows.values()) - len(rows)} doubled; the books agree"
    )


def _check_books(gateway, key):
    """The counters begin with what the rows say, and the audit finds nothing."""
    answer = plain.post(
        f"{gateway.url}/v1/chat/completions",
        headers={"authorization": f"Bearer {key}"},
        content=_body("last", stream=False),
    )
    assert answer.status_code == 200
    until(lambda: RequestLog.objects.filter(request_id=answer.headers["x-request-id"]).exists(), "its row")
    total = sum(RequestLog.objects.values_list("cost_nano_usd", flat=True))
    for owner in next(iter(compile_table().keys.values())).limit_owners:
        assert spent(owner, None, None) == total
    assert RowSeal.objects.count() == RequestLog.objects.count()
    audit = gateway.manage("audit_books", check=False)
    assert (audit.returncode, audit.stdout.strip()) == (0, "The books agree."), audit.stdout + audit.stderr


def test_budgets_count_a_dead_process_calls_before_its_journal_is_shipped(own_gateway, upstream, budgeted):
    _, key = budgeted
    upstream.script("p1")
    upstream.always("p1", Answer(delay=30))
    gateway = own_gateway.start()
    asyncio.run(
        _load_until_killed(gateway, key, itertools.count(), 3)
    )  # Redis first reads the log, after 2 s
    limit_owners = next(iter(compile_table().keys.values())).limit_owners
    early = [
        spent(owner, None, None) for owner in limit_owners
    ]  # the shipper may be at any point of its work
    _kill_web(gateway)
    until(lambda: not _left_over(gateway), "the shipper buries the dead process", 30)
    held = sum(RequestLog.objects.filter(outcome="unknown").values_list("cost_nano_usd", flat=True))
    assert held > 0
    assert early == [held, held]
    assert [spent(owner, None, None) for owner in limit_owners] == [held, held]


async def _load_until_killed(gateway, key, numbers, seconds):
    async with plain.AsyncClient(
        base_url=gateway.url, timeout=10, headers={"authorization": f"Bearer {key}"}
    ) as client:
        tasks = [asyncio.create_task(_client(client, numbers, n)) for n in range(CLIENTS)]
        await asyncio.sleep(seconds)
        os.kill(gateway.process.pid, signal.SIGKILL)
        await asyncio.gather(*tasks)


async def _client(client, numbers, client_number):
    while True:
        number = next(numbers)
        name = f"call-{number}"
        try:
            async with client.stream(
                "POST",
                "/v1/chat/completions",
                content=_body(name, stream=number % 2 == 0),
                headers={"x-request-id": name},
            ) as answer:
                async for _ in answer.aiter_raw():
                    pass
        except httpx.HTTPError:
            return


def _body(name, *, stream):
    return json.dumps(
        {"model": "gpt", "stream": stream, "messages": [{"role": "user", "content": name}]}
    ).encode()


def _name_in(seen):
    return seen.json["messages"][0]["content"]


def _kill_web(gateway):
    gateway.process.kill()
    gateway.process.wait(10)
    gateway.process = None


def _left_over(gateway):
    """Journals of processes that live no more."""
    directory = gateway.data_dir / "journal"
    return [worker for worker in workers(directory) if not lives(directory, worker)]
