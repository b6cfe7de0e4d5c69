"""What comes in one turn of the event loop goes through each step together."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.answers import SCENARIOS
from benchmarks.in_process import InProcess, MemoryTransport, _protocol
from monitoring.models import RequestLog
from monitoring.shipping.shipper import Shipper
from proxy.answers.headers import AnswerHeaders
from proxy.batching import Together, step_by_step
from proxy.engine import Engine
from proxy.gateway import build_gateway, running_gateway, stop_gateway
from proxy.transports.fast import FastTransport
from proxy.transports.http1 import Http1Connection
from tests.factories import make_key, make_provider, make_route, make_target

MODEL = "gpt-4o-mini"
MOST_TURNS = 12  # of the event loop, from a request to the end of its accounting


def test_what_is_added_in_one_turn_is_handled_at_once_and_in_order():
    handled: list[list[int]] = []
    together = Together(handled.append)

    async def add() -> None:
        together.add(1)
        together.add(2)
        await asyncio.sleep(0)
        together.add(3)
        assert handled == [[1, 2]]
        await asyncio.sleep(0)

    asyncio.run(add())
    assert handled == [[1, 2], [3]]


def test_what_is_added_while_others_are_handled_has_the_next_turn():
    handled: list[list[int]] = []

    def handle(numbers: list[int]) -> None:
        handled.append(numbers)
        if numbers[0] < 3:
            together.add(numbers[0] + 1)

    together = Together(handle)

    async def add() -> None:
        together.add(1)
        for _ in range(4):
            await asyncio.sleep(0)

    asyncio.run(add())
    assert handled == [[1], [2], [3]]


def test_a_step_is_done_for_all_before_the_next_one_and_what_fails_takes_no_further_step():
    done: list[tuple[str, int]] = []
    failed: list[tuple[int, str]] = []

    def step(name: str, bad: int) -> Any:
        def take(number: int) -> None:
            if number == bad:
                raise ValueError(name)
            done.append((name, number))

        return take

    step_by_step(
        (step("a", 2), step("b", 0), step("c", 1)),
        [1, 2, 3],
        lambda number, error: failed.append((number, str(error))),
    )
    assert done == [("a", 1), ("a", 3), ("b", 1), ("b", 3), ("c", 3)]
    assert failed == [(2, "a"), (1, "c")]


@pytest.fixture
def engine(settings, tmp_path, transactional_db):
    """Everything has limits; the network is in memory."""
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    provider = make_provider(slug="openai", rpm=10_000)
    route = make_route(name=MODEL, parallel=100)
    make_target(route=route, provider=provider, upstream_model=MODEL, tpm=10**7)
    _, key = make_key(rpm=10_000, budget_usd=100)
    stop_gateway()
    gateway = build_gateway()
    gateway.keeper.refresh()
    with InProcess(gateway, key, MODEL) as running:
        running.run(SCENARIOS["json"], 1)
        yield running


class Client:
    """One connection; `told` is what it was answered."""

    def __init__(self, engine: InProcess, request: bytes) -> None:
        self.told = b""
        self._protocol = _protocol(asyncio.get_running_loop(), engine.state)
        self._transport = MemoryTransport(self._hear)
        self._protocol.connection_made(cast(Any, self._transport))
        self._request = request

    def _hear(self, data: bytes) -> None:
        self.told += data

    def ask(self) -> None:
        self._protocol.data_received(self._request)

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def leave(self) -> None:
        self._transport.end(self._protocol)


def ask_together(engine: InProcess, requests: list[bytes]) -> list[bytes]:
    """Each on a connection of its own; the statuses of their answers."""

    async def ask_all() -> list[bytes]:
        clients = [Client(engine, request) for request in requests]
        for client in clients:
            client.ask()
        for _ in range(100):
            await asyncio.sleep(0)
        for client in clients:
            client.leave()
        return [client.told[9:12] for client in clients]

    statuses: list[bytes] = engine._runner.run(ask_all())
    return statuses


@contextmanager
def another_under_way(engine: InProcess, wanted: bool) -> Iterator[None]:
    """Then requests wait for the next turn of the event loop."""
    other = asyncio.create_task(asyncio.sleep(3600))
    if wanted:
        engine.state.tasks.add(other)
    yield
    engine.state.tasks.discard(other)
    other.cancel()


def rows(tmp_path, **which: str) -> Counter[tuple[str, int | None]]:
    Shipper(tmp_path / "journal").ship()
    return Counter(RequestLog.objects.filter(**which).values_list("outcome", "status"))


def held() -> list[Any]:
    admission: Any = running_gateway().admission
    return [found for found in admission.budgets() if found[4] or found[5]]


def under_way() -> int:
    """Slots of pools that are taken, and attempts that are not over."""
    gateway = running_gateway()
    pools = sum(gauges.in_use for gauges in gateway.upstreams.gauges().values())
    return pools + sum(state.in_flight for state in gateway.chooser.board.states.values())


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in_company"])
@pytest.mark.parametrize("scenario", ["json", "s32", "s32-at-once"])
def test_a_client_may_leave_at_any_turn_of_the_event_loop(engine, tmp_path, scenario, alone):
    """Also when its call is admitted and the task that is to go on with it has not run yet."""

    async def leave_after(turns: int) -> None:
        with another_under_way(engine, not alone):
            client = Client(engine, engine._request(SCENARIOS[scenario]))
            client.ask()
            for _ in range(turns):
                await asyncio.sleep(0)
            client.leave()
            for _ in range(100):
                await asyncio.sleep(0)
        assert not engine.state.tasks
        assert under_way() == 0

    for turns in range(MOST_TURNS):
        engine._runner.run(leave_after(turns))
        assert held() == [], f"left after {turns} turns"
    found = rows(tmp_path, route=MODEL)  # the gateway of other tests may still ship theirs
    known = {("client_gone", None), ("client_gone", 200), ("answered", 200)}
    assert set(found) <= known
    called = RequestLog.objects.filter(route=MODEL, outcome="client_gone", status=None, attempts__gt=0)
    assert called.exists()
    assert all(row.cost_nano_usd > 0 and row.abandoned == "cancelled" for row in called)
    assert found["client_gone", None] >= 2
    # Who leaves before the gateway has looked at the request leaves no row; that of engine is there as well.
    assert found.total() == (MOST_TURNS + 1 if alone else MOST_TURNS)


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in_company"])
def test_requests_that_can_not_be_begun_are_told_so(engine, monkeypatch, caplog, alone):
    def fail(*_: Any) -> Any:
        raise RuntimeError("a fault of the gateway's own")

    monkeypatch.setattr(Engine, "begin", fail)

    async def ask() -> tuple[bytes, bool]:
        with another_under_way(engine, not alone):
            client = Client(engine, engine._request(SCENARIOS["json"]))
            client.ask()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        told = client.told, client.is_closed
        client.leave()
        return told

    told, closed = engine._runner.run(ask())
    assert told.startswith(b"HTTP/1.1 500 ")
    assert closed
    assert "could not be begun" in caplog.text


def test_one_request_that_fails_fails_alone(engine, tmp_path, monkeypatch):
    """Refused ones, a broken one and good ones in one turn: each gets its own answer."""
    of_answer, broken = AnswerHeaders.of_answer, []

    def fail_once(self: AnswerHeaders, *arguments: Any) -> bytes:
        if not broken:
            broken.append(True)
            raise RuntimeError("a fault of the gateway's own")
        return of_answer(self, *arguments)

    good = engine._request(SCENARIOS["json"])
    requests = {
        "broken": good,
        "good": good,
        "no key": good.replace(b"authorization: Bearer sk-", b"authorization: Bearer no-"),
        "no model": good.replace(b'"gpt-4o-mini"', b'"gpt-4o-none"'),
        "also good": good,
    }

    monkeypatch.setattr(AnswerHeaders, "of_answer", fail_once)
    statuses = dict(zip(requests, ask_together(engine, list(requests.values())), strict=True))
    wanted = {"broken": b"500", "good": b"200", "no key": b"401", "no model": b"404", "also good": b"200"}
    assert statuses == wanted
    assert held() == []
    found = rows(tmp_path)
    assert found == {("answered", 200): 3, ("failed", 500): 1, ("refused", 401): 1, ("refused", 404): 1}


def journal_lines() -> int:
    return running_gateway().journal.current.read_bytes().count(b"\n")


@pytest.mark.parametrize("requests", [1, 20])
def test_requests_leave_together_and_are_in_the_journal_by_then(engine, monkeypatch, requests):
    """Before any of their tasks has run; those for which no connection is open must wait for one."""
    asked = [engine._request(SCENARIOS["json"])] * requests
    ask_together(engine, asked * 2)  # opens connections enough
    lines_when_sent, turns_when_sent, turns = [], [], [0]
    request = Http1Connection.request

    def send(self: Http1Connection, *arguments: Any) -> Any:
        lines_when_sent.append(journal_lines())
        turns_when_sent.append(turns[0])
        return request(self, *arguments)

    async def count_turns() -> None:
        while True:
            await asyncio.sleep(0)
            turns[0] += 1

    async def ask_all() -> list[bytes]:
        counting = asyncio.create_task(count_turns())
        clients = [Client(engine, one) for one in asked]
        for client in clients:
            client.ask()
        for _ in range(100):
            await asyncio.sleep(0)
        counting.cancel()
        for client in clients:
            client.leave()
        return [client.told[9:12] for client in clients]

    monkeypatch.setattr(Http1Connection, "request", send)
    before = journal_lines()
    assert engine._runner.run(ask_all()) == [b"200"] * requests
    # The first one finds nobody to wait for.
    assert lines_when_sent == [before + 1] + [before + requests] * (requests - 1)
    assert turns_when_sent[0] == 0
    assert len(set(turns_when_sent[1:])) <= 1
    assert under_way() == 0


def test_who_finds_no_slot_waits_for_one(engine, tmp_path):
    link = running_gateway().upstreams.links()[0]
    limit = link.pool.connection.max_connections
    for _ in range(limit):
        link.pool.take_free(None)  # all are in use elsewhere

    async def ask() -> bytes:
        client = Client(engine, engine._request(SCENARIOS["json"]))
        client.ask()
        for _ in range(10):
            await asyncio.sleep(0)
        assert client.told == b""
        assert link.pool.gauges().waiting == 1
        for _ in range(limit):
            link.pool.release(None)
        for _ in range(100):
            await asyncio.sleep(0)
        client.leave()
        return client.told

    assert engine._runner.run(ask()).startswith(b"HTTP/1.1 200 ")
    assert under_way() == 0


def test_a_request_that_can_not_be_sent_leaves_nothing_behind(engine, tmp_path, monkeypatch):
    def fail(*_: Any) -> Any:
        raise RuntimeError("a fault of the gateway's own")

    monkeypatch.setattr(FastTransport, "begin", fail)
    assert ask_together(engine, [engine._request(SCENARIOS["json"])]) == [b"500"]
    assert under_way() == 0
    assert held() == []
    assert rows(tmp_path) == {("answered", 200): 1, ("failed", 500): 1}


def test_a_call_alone_waits_for_no_turn_until_it_is_in_the_journal(engine):
    async def ask() -> tuple[int, int]:
        client = Client(engine, engine._request(SCENARIOS["json"]))
        client.ask()
        opened = journal_lines()
        for _ in range(100):
            if client.told:
                break
            await asyncio.sleep(0)
        closed = journal_lines()
        client.leave()
        return opened, closed

    before = journal_lines()
    assert engine._runner.run(ask()) == (before + 1, before + 2)


@pytest.mark.parametrize(
    ("key", "status", "records"),
    [(b"Bearer sk-", b"200", 40), (b"Bearer no-", b"401", 5)],  # of strangers: a sample
)
def test_calls_in_company_share_their_writes(engine, monkeypatch, key, status, records):
    writes: list[bytes] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: writes.append(data) or write(file, data))
    request = engine._request(SCENARIOS["json"]).replace(b"Bearer sk-", key)
    assert set(ask_together(engine, [request] * 20)) == {status}
    assert sum(data.count(b"\n") for data in writes) == records
    assert len(writes) <= max(records / 4, 2)


def test_a_call_that_can_not_be_accounted_for_keeps_no_limit_and_no_other_call_back(engine, tmp_path, caplog):
    accounting = running_gateway().engine.accounting
    closed, seen = accounting._rows.closed, []

    def fail_first(call: Any, fate: str) -> Any:
        seen.append(call.id)
        if len(seen) == 1:
            raise RuntimeError("a fault of the gateway's own")
        return closed(call, fate)

    accounting._rows = SimpleNamespace(closed=fail_first, opened=accounting._rows.opened)

    ask_together(engine, [engine._request(SCENARIOS["json"])] * 2)
    assert held() == []
    assert [record.args for record in caplog.records if "accounted" in record.msg] == [(seen[0],)]
    assert len(seen) == 2
