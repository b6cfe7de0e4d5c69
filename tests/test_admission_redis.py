"""What only the shared counts have: several processes, lost replies, a Redis that forgets."""

import asyncio
import threading
from collections import deque
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admission.redis import admission as redis_admission
from proxy.admission.redis import outage
from proxy.admission.redis.connection import RedisAway, RedisConnection, RedisRefused
from proxy.admission.redis.holds import Holds
from proxy.admission.redis.outage import SettledInOutage
from proxy.admission.redis.owners import base_of
from proxy.admission.redis.scripts import EPOCH, SETTLE, packed, run
from proxy.admission.redis.settlements import Settlements
from proxy.errors import LimitsUnavailable, RateLimited
from routing.table import Budget, LimitOwner, Limits
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
    await dead.admit(key(parallel=1, budget=10), candidates=[target(1, cost=10, parallel=1, budget=10)])
    await dead.admission.client.stop()
    store.advance(29)
    await store.refused(key(parallel=1))
    store.advance(2)
    assert await store.left(key(budget=10)) == 10
    await store.admit(key(parallel=1), candidates=[target(1, cost=10, parallel=1, budget=10)])


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
    connection = store.admission.client.connection
    record = grant.holds.ended(grant.demand.id, 30)
    for _ in range(2):
        await run(connection, SETTLE, ["{switchstand}:batch:test"], 1, 1000, packed([record]))
    assert await store.left(key(budget=100)) == 70


async def test_one_batch_settles_many_calls_of_many_owners(store):
    """It is summed per budget and bucket before it is written; a call may be in it twice."""
    team = LimitOwner(
        "team",
        1,
        "t",
        Limits(tpm=10_000, parallel=30),
        Budget(limit_nano=5000, period="total", time_zone="UTC"),
    )
    shared = (key(tpm=1000, parallel=20, budget=3000), team)
    candidates = [target(1, cost=40, budget=900, tpm=2000), target(2, cost=20, tpm=500)]
    grants = [await store.admit(*shared, candidates=candidates, tokens=20) for _ in range(10)]
    for number, grant in enumerate(grants):
        store.admission.record(Holds([], grant.holds.own).ended(grant.demand.id, 0))
        store.advance(0.1)
        grant.settle(5 + number, 3 * number)
    await store.settled()
    found = store.redis.hgetall("{switchstand}:target:1:b:total")
    assert (int(found[b"s"]), int(found[b"r"])) == (3 * 45, 0)
    assert not any(name.startswith(b"h:") for name in found)
    assert store.redis.exists("{switchstand}:key:1:p", "{switchstand}:target:1:b:total:x") == 0
    for base in ("key:1", "team:1", "target:1"):
        assert int(store.redis.hget(f"{{switchstand}}:{base}:t", "t")) == 50 + 45
    assert await store.left(shared[0]) == 3000 - 3 * 45


async def test_records_of_one_batch_count_in_the_order_in_which_they_came(store):
    limited = key(budget=100, parallel=1)
    grant = await store.admit(limited, cost=60)
    connection, holds = store.admission.client.connection, grant.holds
    records = [
        holds.ended(grant.demand.id, 7),
        holds.goes_on(grant.demand.id, 50),
        holds.goes_on(grant.demand.id, 40),
    ]
    await run(connection, SETTLE, ["{switchstand}:batch:test"], 1, 30_000, packed(records))
    found = store.redis.hgetall("{switchstand}:key:1:b:total")
    assert (int(found[b"s"]), int(found[b"r"]), int(found[f"h:{grant.demand.id}".encode()])) == (7, 40, 40)
    records = [holds.goes_on(grant.demand.id, 30), holds.ended(grant.demand.id, 5)]
    await run(connection, SETTLE, ["{switchstand}:batch:test"], 2, 30_000, packed(records))
    found = store.redis.hgetall("{switchstand}:key:1:b:total")
    assert found == {b"s": b"12", b"r": b"0"}
    await store.admit(limited, cost=88)


async def test_what_a_dead_process_held_comes_back_though_there_is_room_without_it(store):
    dead, limited = await store.second(), key(budget=1000)
    for _ in range(3):
        await dead.admit(limited, cost=10)
    await dead.admission.client.stop()
    store.advance(31)
    (await store.admit(limited, cost=5)).settle(1, 5)
    await store.settled()
    assert store.redis.hgetall("{switchstand}:key:1:b:total") == {b"s": b"5", b"r": b"0"}
    assert not store.redis.exists("{switchstand}:key:1:b:total:x")


async def test_holds_end_with_their_period_in_redis_too(store):
    limited = key(budget=100, period="day")
    first = await store.admit(limited, cost=10)
    (held,) = store.redis.keys("{switchstand}:key:1:b:*:x")
    counter = held.removesuffix(b":x")
    ends = store.redis.pexpiretime(held)
    assert ends > NOON * 1000
    first.settle(1, 1)
    await store.settled()
    assert not store.redis.exists(held)
    await store.admit(limited, cost=0)
    await store.admit(limited, cost=10)
    assert store.redis.pexpiretime(held) == store.redis.pexpiretime(counter) == ends


WINDOW = "{switchstand}:key:1:r"


@pytest.mark.parametrize("left_by", ["one that knows no oldest bucket", "one that left it as it was"])
async def test_a_window_of_an_older_gateway_is_counted_on(store, left_by):
    """While processes are replaced one by one, both write to it."""
    for _ in range(3):
        await store.admit(key(rpm=5))
        store.advance(10)
    if left_by == "one that knows no oldest bucket":
        store.redis.hdel(WINDOW, "o")
    else:
        store.redis.hset(WINDOW, "o", int(NOON - 100) * 4)
    assert (await store.admit(key(rpm=5))).rate_limits[0].remaining == 1
    assert store.redis.hget(WINDOW, "o") == store.redis.lindex(f"{WINDOW}l", 0)
    await store.admit(key(rpm=5))
    await store.refused(key(rpm=5))
    store.advance(30.26)
    assert (await store.admit(key(rpm=5))).rate_limits[0].remaining == 0
    await store.refused(key(rpm=5))
    store.advance(61)
    assert (await store.admit(key(rpm=5))).rate_limits[0].remaining == 4


async def test_a_window_of_many_buckets_is_indexed_and_counts_the_same(store):
    for number in range(80):
        assert (await store.admit(key(rpm=100))).rate_limits[0].remaining == 99 - number
        store.advance(0.5)
    assert store.redis.object("encoding", WINDOW) == b"hashtable"
    assert int(store.redis.hget(WINDOW, "t")) == 80
    store.advance(20.3)
    assert (await store.admit(key(rpm=100))).rate_limits[0].remaining > 99 - 80


@pytest.mark.parametrize("lost", ["", "l"])
async def test_a_window_of_which_redis_lost_a_part_starts_empty_and_counts(store, lost):
    """It may evict either key, where it is told to."""
    for _ in range(3):
        await store.admit(key(rpm=3))
        store.advance(1)
    store.redis.delete(WINDOW + lost)
    store.advance(60)
    for _ in range(3):
        await store.admit(key(rpm=3))
    await store.refused(key(rpm=3))


async def test_amounts_that_lua_would_write_with_an_exponent_are_whole(store):
    limited = key(budget=9 * 10**15, tpm=10**9)
    grant = await store.admit(limited, cost=10**15, tokens=10**8)
    await store.admit(limited, cost=10**8, tokens=2 * 10**8)
    found = store.redis.hgetall("{switchstand}:key:1:b:total")
    assert found[b"r"] == b"1000000100000000"
    assert store.redis.hget("{switchstand}:key:1:t", "t") == b"300000000"
    grant.settle(10**8 + 1, 2 * 10**15)
    await store.settled()
    found = store.redis.hgetall("{switchstand}:key:1:b:total")
    assert (found[b"s"], found[b"r"]) == (b"2000000000000000", b"100000000")
    assert store.redis.hget("{switchstand}:key:1:t", "t") == b"300000001"


async def test_scripts_that_redis_forgot_are_sent_again(store):
    store.redis.script_flush()
    (await store.admit(key(rpm=5))).settle(1, 0)
    assert (await store.admit(key(rpm=5))).rate_limits[0].remaining == 3


async def test_what_ends_before_spending_is_known_is_neither_lost_nor_counted_twice(store):
    """Redis loses its memory while three calls run; their rows reach the log at different times."""
    limited = key(budget=1000)
    grants = [await store.admit(limited, cost=100) for _ in range(3)]
    store.redis.flushdb()
    store.advance(0)
    grants[0].settle(1, 10)
    grants[1].settle(1, 20)
    await store.settled()
    store.log.append((limited, NOON, 10, grants[0].demand.id))  # shipped before the counter is read
    late = store.admission._seeding._spent

    def and_then_one_more(*asked: Any) -> int:
        found = late(*asked)
        store.log.append((limited, NOON, 20, grants[1].demand.id))  # shipped right after
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
    await store.admission.client.stop()


async def with_redis_again(store: Store) -> None:
    client = store.admission.client
    client._task, client._tried = None, asyncio.Event()
    await client.start()
    assert client.connection is not None
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
        store.log.extend((limited, NOON, 7, grant.demand.id) for grant in grants)
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
    store.log.append((limited, NOON, 7, grant.demand.id))
    await with_redis_again(store)
    waits = asyncio.create_task(store.admit(limited, cost=1))
    await asyncio.sleep(0.2)
    await with_redis_again(other)
    await waits
    assert spent_in_redis(store) == 7
    await other.close()


async def test_a_call_let_through_while_redis_came_back_counts_there(store):
    """It waits for the log while the connection comes up: nobody else would tell Redis of it."""
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
    assert grant.rate_limits[0].remaining == 3


async def test_requests_of_one_moment_without_redis_all_count_when_it_is_back(store):
    limited = key(rpm=10, tpm=1000)
    await without_redis(store)
    for _ in range(3):
        (await store.admit(limited, tokens=20)).settle(15, 0)
    await with_redis_again(store)
    requests, tokens = (await store.admit(limited, tokens=20)).rate_limits
    assert (requests.remaining, tokens.remaining) == (10 - 4, 1000 - 3 * 15 - 20)


async def test_what_was_reported_to_a_redis_that_forgot_it_counts_though_it_is_not_shipped(store):
    limited = key(budget=1000)
    (await store.admit(limited, cost=100)).settle(1, 7)
    await store.settled()
    store.redis.flushdb()
    store.advance(0)
    other = await store.second()
    await store.admission.client.stop()
    await with_redis_again(store)
    await other.admit(limited, cost=1)
    assert spent_in_redis(store) == 7
    await other.close()


async def test_a_long_outage_is_reported_as_one_sum(monkeypatch):
    monkeypatch.setattr(outage, "MOST_CALLS", 10)
    settled = SettledInOutage()
    for number in range(1000):
        settled.add(("S", f"call-{number}", 0), [("{switchstand}:key:1", "total", 3)])
    records = settled.take()
    assert records[0] == ("C", "{switchstand}:key:1", "total", 990 * 3)
    assert [record[1] for record in records[1:]] == [f"call-{number}" for number in range(990, 1000)]
    assert settled.take() == []


async def test_a_connection_whose_answer_is_late_fails_all_that_wait(redis_server):
    connection = await RedisConnection.open(redis_server.url, 0.1)
    redis_server.freeze()
    try:
        asked = [connection.call("PING") for _ in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 1)
    finally:
        redis_server.thaw()
    assert [type(result) for result in results] == [RedisAway] * 3
    assert "no answer within 100 ms" in str(results[0])
    with pytest.raises(RedisAway):
        await connection.call("PING")


async def test_no_redis_at_the_start_stops_no_start():
    store = Store()
    closed = redis_admission.RedisAdmission(
        f"redis://127.0.0.1:{free_port()}/0", store.spent, timeout=0.2, without="closed", lease=30
    )
    await closed.start()
    with pytest.raises(LimitsUnavailable):
        await closed.admit((key(rpm=1),), [target(1)], store_demand())
    assert closed.state()["problem"] == "Redis is away"
    await closed.aclose()


async def test_without_redis_open_counts_in_the_process():
    store = Store()
    store.admission = redis_admission.RedisAdmission(
        f"redis://127.0.0.1:{free_port()}/0", store.spent, timeout=0.2, without="open", lease=30
    )
    await store.admission.start()
    grant = await store.admit(
        key(rpm=1, budget=100), candidates=[target(1, cost=5, rpm=1), target(2, cost=7)]
    )
    await grant.move(1, 2)
    assert (grant.candidate, grant.reserved_nano) == (1, 7)
    error = await store.refused(key(rpm=1, budget=100))
    assert error.rate_limits[0].remaining == 0
    grant.settle(1, 7)
    (record,) = store.admission._outage.take()
    assert record[:2] == ("S", grant.demand.id)
    assert record[2:4] == ('[{"base":"{switchstand}:key:1","period":"total"}]', 7)
    await store.admission.client.stop()


async def test_a_connection_that_was_answered_stays(redis_server):
    connection = await RedisConnection.open(redis_server.url, 0.1)
    for _ in range(3):
        assert await asyncio.gather(*(connection.call("PING") for _ in range(5))) == [b"PONG"] * 5
        await asyncio.sleep(0.15)
    assert not connection.lost.done()
    connection.close("the test ends")


async def test_a_password_and_a_database_of_the_url_are_used(redis_server):
    connection = await RedisConnection.open(redis_server.url.replace("/0", "/3"), 1)
    await connection.call("SET", "where", "three")
    assert redis_server.client.get("where") is None
    await connection.call("DEL", "where")
    redis_server.client.config_set("requirepass", "secret")
    try:
        url = redis_server.url.replace("redis://", "redis://:secret@")
        assert await (await RedisConnection.open(url, 1)).call("PING") == b"PONG"
        with pytest.raises(RedisRefused, match="WRONGPASS"):
            await RedisConnection.open(redis_server.url.replace("redis://", "redis://:wrong@"), 1)
    finally:
        with_password = await RedisConnection.open(
            redis_server.url.replace("redis://", "redis://:secret@"), 1
        )
        await with_password.call("CONFIG", "SET", "requirepass", "")


async def test_settlements_keep_what_was_not_acknowledged(redis_server):
    settlements = Settlements(1000)
    for number in range(450):
        settlements.add(("C", f"{{switchstand}}:key:{number}", "total", 1))
    connection = await RedisConnection.open(redis_server.url, 0.1)
    redis_server.freeze()
    try:
        with pytest.raises(RedisAway):
            await settlements.flush(connection)
    finally:
        redis_server.thaw()
    assert len(settlements) == 450
    again = await RedisConnection.open(redis_server.url, 2)
    await run(again, EPOCH, ["{switchstand}:memory"], "word")
    await settlements.flush(again)
    assert len(settlements) == 0


def store_demand() -> Any:
    from proxy.admission.base import Demand

    return Demand("00000000-0000-7000-8000-000000000000", 1, NOON)


def test_owners_never_share_a_key():
    names = {
        base_of(LimitOwner(kind, 1, "", Limits())) for kind in ("key", "team", "route", "target", "provider")
    }
    assert len(names) == 5
