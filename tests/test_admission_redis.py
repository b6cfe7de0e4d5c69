"""What only the shared counts have: several processes, lost replies, a Redis that forgets."""

import asyncio
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admission import redis as redis_admission
from proxy.admission import redis_owed
from proxy.admission.redis_ledger import Ledger, packed
from proxy.admission.redis_line import HELLO, SETTLE, run
from proxy.admission.redis_link import RedisAway, RedisLink, RedisRefused
from proxy.admission.redis_owed import Owed
from proxy.admission.redis_owners import base_of
from proxy.errors import LimitsUnavailable, RateLimited
from routing.table import Claim, Limits
from tests.live import free_port
from tests.optional import needs
from tests.test_admission import NOON, Store, key, target, test_clock  # noqa: F401 the clock of both suites

pytestmark = needs("Redis")


@pytest.fixture
def client(redis_server):
    return redis_server.client


@pytest.fixture
async def store(client):
    opened = await Store(client).open()
    yield opened
    await opened.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.tuples(st.floats(0, 20), st.booleans()), min_size=5, max_size=40), rpm=st.integers(1, 5)
)
def test_two_processes_together_never_let_through_more_than_the_limit(client, steps, rpm):
    async def go() -> None:
        first = await Store(client).open()
        second = await first.second()
        admitted: deque[float] = deque()
        for wait, which in steps:
            first.advance(wait)
            second.now = first.now
            try:
                grant = await (first if which else second).admit(key(rpm=rpm))
            except RateLimited:
                continue
            grant.settle(1, 0)
            admitted.append(first.now)
            assert sum(at > first.now - 60 for at in admitted) <= rpm
        await first.close()
        await second.close()

    asyncio.run(go())


async def test_two_processes_share_parallel_limits_and_budgets(store):
    other = await store.second()
    limited = key(parallel=2, budget=100)
    mine, theirs = await store.admit(limited, cost=40), await other.admit(limited, cost=40)
    await store.refused(limited)
    theirs.settle(1, 30)
    await other.settled()
    assert await store.left(limited) == 30
    mine.settle(1, 30)
    assert await store.left(limited) == 40
    await other.close()


async def test_a_dead_process_gives_back_what_it_held_when_its_lease_ends(store):
    dead = await store.second()
    await dead.admit(key(parallel=1, budget=10), options=[target(1, cost=10, parallel=1, budget=10)])
    await dead.admission.line.stop()
    store.advance(29)
    await store.refused(key(parallel=1))
    store.advance(2)
    assert await store.left(key(budget=10)) == 10
    await store.admit(key(parallel=1), options=[target(1, cost=10, parallel=1, budget=10)])


async def test_a_living_calls_lease_is_renewed(store):
    await store.admit(key(parallel=1, budget=10), cost=10)
    for _ in range(4):
        store.advance(20)
        for grant in store.admission._open.values():
            store.admission.record(grant.hold_record())
        await store.settled()
    await store.refused(key(parallel=1))
    await store.refused(key(budget=10), cost=1)


async def test_a_batch_that_is_sent_twice_counts_once(store):
    grant = await store.admit(key(budget=100), cost=50)
    link = store.admission.line.link
    record = grant.held.ended(grant.call, 30)
    for _ in range(2):
        await run(link, SETTLE, ["{switchstand}:batch:test"], 1, 1000, packed([record]))
    assert await store.left(key(budget=100)) == 70


async def test_scripts_that_redis_forgot_are_sent_again(store):
    store.redis.script_flush()
    (await store.admit(key(rpm=5))).settle(1, 0)
    assert (await store.admit(key(rpm=5))).headrooms[0].remaining == 3


async def test_what_ends_before_spending_is_known_is_neither_lost_nor_counted_twice(store):
    """Redis loses its memory while three calls run; their rows reach the log at different times."""
    limited = key(budget=1000)
    grants = [await store.admit(limited, cost=100) for _ in range(3)]
    store.redis.flushdb()
    store.advance(0)
    grants[0].settle(1, 10)
    grants[1].settle(1, 20)
    await store.settled()
    store.log.append((limited, NOON, 10, grants[0].call))  # shipped before the counter is read
    late = store.admission._seeding._spent

    def and_then_one_more(*asked: Any) -> int:
        found = late(*asked)
        store.log.append((limited, NOON, 20, grants[1].call))  # shipped right after
        return found

    store.admission._seeding._spent = and_then_one_more
    await store.admit(limited, cost=1)
    grants[2].settle(1, 30)
    await store.settled()
    found = store.redis.hgetall("{switchstand}:key:1:b:total")
    assert int(found[b"s"]) == 60


def spent_in_redis(store: Store) -> int:
    return int(store.redis.hgetall("{switchstand}:key:1:b:total")[b"s"])


async def without_redis(store: Store) -> None:
    store.admission._without = "open"
    await store.admission.line.stop()


async def with_redis_again(store: Store) -> None:
    line = store.admission.line
    line._task, line._tried = None, asyncio.Event()
    await line.start()
    assert line.link is not None
    await store.settled()


@pytest.mark.parametrize("shipped", ["before", "never"])
async def test_what_one_process_spent_without_redis_counts_where_another_reads_the_log(store, shipped):
    """Its rows are in the log, or still on their way there: the one machine can't see the other's journal."""
    other, limited = await store.second(), key(budget=1000)
    await without_redis(other)
    grants = [await other.admit(limited, cost=100) for _ in range(3)]
    for grant in grants:
        grant.settle(1, 7)
    if shipped == "before":
        store.log.extend((limited, NOON, 7, grant.call) for grant in grants)
    await with_redis_again(other)
    await store.admit(limited, cost=1)
    assert spent_in_redis(store) == 21
    await other.close()


async def test_the_log_is_read_only_when_all_have_found_redis_again(store, monkeypatch):
    monkeypatch.setattr(redis_admission, "YOUNG_SECONDS", 0.5)
    other, limited = await store.second(), key(budget=1000)
    await without_redis(other)
    await without_redis(store)
    grant = await other.admit(limited, cost=100)
    grant.settle(1, 7)
    store.log.append((limited, NOON, 7, grant.call))
    await with_redis_again(store)
    waits = asyncio.create_task(store.admit(limited, cost=1))
    await asyncio.sleep(0.2)
    await with_redis_again(other)
    await waits
    assert spent_in_redis(store) == 7
    await other.close()


async def test_a_call_let_through_while_redis_came_back_counts_there(store):
    """It waits for the log while the link comes up: nobody else would tell Redis of it."""
    limited = key(budget=1000, rpm=5)
    await without_redis(store)
    asked, go = asyncio.Event(), threading.Event()
    loop, spent = asyncio.get_running_loop(), store.admission._spent

    def slowly(*question: Any) -> int:
        loop.call_soon_threadsafe(asked.set)
        assert go.wait(5)
        return int(spent(*question))

    store.admission._spent = slowly
    waits = asyncio.create_task(store.admit(limited, cost=100))
    await asked.wait()
    await with_redis_again(store)
    go.set()
    (await waits).settle(1, 7)
    await store.settled()
    grant = await store.admit(limited, cost=1)
    assert spent_in_redis(store) == 7
    assert grant.headrooms[0].remaining == 3


async def test_what_was_told_to_a_redis_that_forgot_it_counts_though_it_is_not_shipped(store):
    limited = key(budget=1000)
    (await store.admit(limited, cost=100)).settle(1, 7)
    await store.settled()
    store.redis.flushdb()
    store.advance(0)
    other = await store.second()
    await store.admission.line.stop()
    await with_redis_again(store)
    await other.admit(limited, cost=1)
    assert spent_in_redis(store) == 7
    await other.close()


async def test_a_long_outage_is_told_as_one_sum(monkeypatch):
    monkeypatch.setattr(redis_owed, "MOST_CALLS", 10)
    owed = Owed()
    for number in range(1000):
        owed.add(("S", f"call-{number}", 0), [("{switchstand}:key:1", "total", 3)])
    told = owed.take()
    assert told[0] == ("C", "{switchstand}:key:1", "total", 990 * 3)
    assert [record[1] for record in told[1:]] == [f"call-{number}" for number in range(990, 1000)]
    assert owed.take() == []


async def test_a_link_whose_answer_is_late_fails_all_that_wait(redis_server):
    link = await RedisLink.open(redis_server.url, 0.1)
    redis_server.freeze()
    try:
        asked = [link.call("PING") for _ in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 1)
    finally:
        redis_server.thaw()
    assert [type(result) for result in results] == [RedisAway] * 3
    assert "no answer within 100 ms" in str(results[0])
    with pytest.raises(RedisAway):
        await link.call("PING")


async def test_no_redis_at_the_start_stops_no_start():
    store = Store()
    closed = redis_admission.RedisAdmission(
        f"redis://127.0.0.1:{free_port()}/0", store.spent, timeout=0.2, without="closed", lease=30
    )
    await closed.start()
    with pytest.raises(LimitsUnavailable):
        await closed.admit((key(rpm=1),), [target(1)], store_need())
    assert closed.state()["problem"] == "Redis is away"
    await closed.aclose()


async def test_without_redis_open_counts_in_the_process():
    store = Store()
    store.admission = redis_admission.RedisAdmission(
        f"redis://127.0.0.1:{free_port()}/0", store.spent, timeout=0.2, without="open", lease=30
    )
    await store.admission.start()
    grant = await store.admit(key(rpm=1, budget=100), options=[target(1, cost=5, rpm=1), target(2, cost=7)])
    await grant.move(1, 2)
    assert (grant.option, grant.reserved_nano) == (1, 7)
    error = await store.refused(key(rpm=1, budget=100))
    assert error.headrooms[0].remaining == 0
    grant.settle(1, 7)
    (told,) = store.admission._owed.take()
    assert told[:2] == ("S", grant.call)
    assert told[2:4] == ('[{"base":"{switchstand}:key:1","period":"total"}]', 7)
    await store.admission.line.stop()


async def test_a_password_and_a_database_of_the_url_are_used(redis_server):
    link = await RedisLink.open(redis_server.url.replace("/0", "/3"), 1)
    await link.call("SET", "where", "three")
    assert redis_server.client.get("where") is None
    await link.call("DEL", "where")
    redis_server.client.config_set("requirepass", "secret")
    try:
        url = redis_server.url.replace("redis://", "redis://:secret@")
        assert await (await RedisLink.open(url, 1)).call("PING") == b"PONG"
        with pytest.raises(RedisRefused, match="WRONGPASS"):
            await RedisLink.open(redis_server.url.replace("redis://", "redis://:wrong@"), 1)
    finally:
        link_with_password = await RedisLink.open(redis_server.url.replace("redis://", "redis://:secret@"), 1)
        await link_with_password.call("CONFIG", "SET", "requirepass", "")


async def test_a_ledger_keeps_what_was_not_acknowledged(redis_server):
    ledger = Ledger(1000)
    for number in range(450):
        ledger.add(("C", f"{{switchstand}}:key:{number}", "total", 1))
    link = await RedisLink.open(redis_server.url, 0.1)
    redis_server.freeze()
    try:
        with pytest.raises(RedisAway):
            await ledger.flush(link)
    finally:
        redis_server.thaw()
    assert len(ledger) == 450
    again = await RedisLink.open(redis_server.url, 2)
    await run(again, HELLO, ["{switchstand}:memory"], "word")
    await ledger.flush(again)
    assert len(ledger) == 0


def store_need() -> Any:
    from proxy.admission.base import Need

    return Need("00000000-0000-7000-8000-000000000000", 1, NOON)


def test_owners_never_share_a_key():
    names = {base_of(Claim(kind, 1, "", Limits())) for kind in ("key", "team", "route", "target", "provider")}
    assert len(names) == 5
