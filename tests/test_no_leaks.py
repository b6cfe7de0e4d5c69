"""Whatever becomes of calls, nothing stays held once none is in flight: limits, budgets, slots, targets."""

import asyncio
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from proxy.admission.memory import MemoryAdmission
from proxy.admission.redis.admission import RedisAdmission
from proxy.answers.headers import AnswerHeaders
from tests.optional import needs
from tests.scripted_engine import BEHAVIOURS, ScriptedEngine, ScriptedResponse

routes = some.fixed_dictionaries(
    {},
    optional={
        "on_cut": some.sampled_from(["error", "continue", "hold"]),
        "hedge_after": some.sampled_from([0.001, 0.005, 0.02]),
        "attempt_timeout": some.sampled_from([0.01, 0.05]),
        "first_byte_timeout": some.just(0.02),
        "stall_timeout": some.just(0.02),
        "max_attempts": some.integers(1, 6),
        "deadline": some.sampled_from([0.02, 0.1]),
        "strategy": some.sampled_from(["ordered", "weighted", "least_busy", "sticky"]),
    },
)
calls = some.lists(
    some.tuples(some.booleans(), some.one_of(some.none(), some.floats(0, 0.06))), min_size=1, max_size=12
)
mixes = some.lists(some.sampled_from(BEHAVIOURS), max_size=40)


def nothing_spent(*question):
    return 0


async def run_all(engine, asked):
    found = await asyncio.gather(
        *(engine.call(stream=stream, patience=patience) for stream, patience in asked)
    )
    await asyncio.sleep(0.005)  # what is closed behind a cancelled call's back
    assert "internal_error" not in found
    assert len(engine.journal.closed) == len(asked)
    assert engine.in_use() == {}
    return found


@settings(max_examples=25, deadline=None)
@given(route=routes, behaviours=mixes, asked=calls)
def test_nothing_leaks(route, behaviours, asked):
    async def go():
        admission = MemoryAdmission(nothing_spent)
        engine = ScriptedEngine(admission, behaviours, **route)
        await run_all(engine, asked)
        for owner in engine.limit_owners():
            assert admission.open_calls(owner.kind, owner.id) == 0, owner
            assert admission.spending(owner, time.time())[1] == 0, owner
        billed = sum(row.cost_nano_usd or 0 for row in engine.journal.closed)
        key = engine.limit_owners()[0]
        assert admission.spending(key, time.time())[0] == billed

    asyncio.run(go())


def test_a_caller_who_leaves_while_a_failed_stream_is_closed_leaves_a_row(monkeypatch):
    """Seldom: our own code fails at a stream's beginning, and its connection takes a while to close."""

    def fail(*arguments):
        raise RuntimeError("broken on purpose")

    async def close_slowly(response):
        await asyncio.sleep(5)

    async def go():
        admission = MemoryAdmission(nothing_spent)
        engine = ScriptedEngine(admission, ["fine"])
        assert await engine.call(stream=True, patience=0.1) == "gone"
        await asyncio.sleep(0)  # what ended is accounted for in the loop's next turn
        (row,) = engine.journal.closed
        assert (row.outcome, row.tokens_estimated) == ("failed", True)
        assert engine.in_use() == {}
        assert {admission.open_calls(owner.kind, owner.id) for owner in engine.limit_owners()} == {0}

    monkeypatch.setattr(AnswerHeaders, "of_answer", fail)
    monkeypatch.setattr(ScriptedResponse, "aclose", close_slowly)
    asyncio.run(go())


def held_in(client):
    """What Redis still holds: open calls, and nano-USD reserved."""
    held = {}
    for name in client.keys("*"):
        kind = client.type(name)
        if kind == b"zset":
            held[name] = client.zcard(name)
        elif kind == b"hash" and b":b:" in name:
            held[name] = int(client.hget(name, "r") or 0)
    return {name: count for name, count in held.items() if count}


@needs("Redis")
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(route=routes, behaviours=mixes, asked=calls)
def test_nothing_leaks_in_redis(redis_server, route, behaviours, asked):
    async def go():
        redis_server.client.flushdb()
        admission = RedisAdmission(redis_server.url, nothing_spent, timeout=2, without="closed", lease=30)
        await admission.start()
        engine = ScriptedEngine(admission, behaviours, **route)
        await run_all(engine, asked)
        await admission.aclose()
        assert held_in(redis_server.client) == {}

    asyncio.run(go())
