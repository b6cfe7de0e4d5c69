"""A provider's pool: slots, the bounded queue before them, warm connections, gauges."""

import asyncio
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from proxy.errors import PoolExhausted
from proxy.upstreams.pool import Pool, Upstreams
from routing.compiler import compile_table
from routing.table import Connection
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import eventually, until
from tests.raw_server import answering, serving, whole
from tests.scripted_engine import _provider as scripted_provider
from tests.test_transports import closed_port
from tests.upstream import Answer, events


@pytest.fixture
def served(published, upstream):
    """Makes a provider with these settings and a route to it; a key for it."""

    def make(**settings):
        provider = make_provider(slug="p1", base_url=upstream.url("p1"), **settings)
        make_target(route=make_route(name="gpt"), provider=provider)
        _, key = make_key()
        published()
        return key

    return make


def test_a_full_queue_is_refused_at_once(door, upstream, served):
    key = served(max_connections=1, max_queue=1, queue_timeout=20)
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=events("a", "b"), gate=gate))
    with ThreadPoolExecutor() as others, door.stream(key) as held:
        began = time.monotonic()
        both = [others.submit(door.chat, key) for _ in range(2)]  # whichever is second finds the queue full
        done, waiting = wait(both, timeout=20, return_when=FIRST_COMPLETED)
        took = time.monotonic() - began
        gate.set()
        held.read()
        (refused,) = (each.result() for each in done)
        assert [each.result().status_code for each in waiting] == [200]
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["provider"]) == (503, "pool_exhausted", "p1")
    assert error["message"] == "All 1 connections to p1 are in use, and 1 requests wait for one."
    assert took < 2
    assert refused.headers["retry-after"] == "1"


def test_a_queue_of_0_lets_nobody_wait(door, upstream, served):
    key = served(max_connections=1, max_queue=0, queue_timeout=20)
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=events("a", "b"), gate=gate))
    with door.stream(key) as held:
        refused = door.chat(key)
        gate.set()
        held.read()
    assert refused.json()["error"]["message"].endswith("are in use, and 0 requests wait for one.")
    assert door.chat(key).status_code == 200


def test_one_who_waits_too_long_is_told_how_long(door, upstream, served):
    key = served(max_connections=1, queue_timeout=0.2)
    gate = threading.Event()
    upstream.script("p1", Answer(chunks=events("a", "b"), gate=gate))
    with door.stream(key) as held:
        refused = door.chat(key)
        gate.set()
        held.read()
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (503, "pool_exhausted")
    assert error["message"].endswith("and none came free within 0.2 s.")


def test_a_gateway_opens_connections_before_anyone_needs_them(published):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        make_provider(base_url=f"http://127.0.0.1:{server.getsockname()[1]}/v1", prewarm=5)
        published()
        opened = [server.accept()[0] for _ in range(5)]
        server.settimeout(1.5)
        with pytest.raises(TimeoutError):
            server.accept()
        for connection in opened:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # open, and nothing was asked
                connection.recv(1)
            connection.close()


# The pool itself


def entry(base_url, **settings):
    make_provider(slug="p", base_url=base_url, **settings)
    return compile_table().providers["p"]


@pytest.mark.django_db(transaction=True)
class TestPool:
    def link(self, url, **settings):
        provider = entry(url, **settings)
        upstreams = Upstreams("fast")

        async def follow():
            return upstreams, upstreams.link(provider)

        return follow

    def test_gauges_follow_the_slots(self):
        make = self.link("http://127.0.0.1:9/v1", max_connections=2)

        async def story():
            upstreams, link = await make()
            assert link.pool.take_free(1)
            assert link.pool.take_free(1)
            assert not link.pool.take_free(1)
            waiter = asyncio.ensure_future(link.pool.wait_for_free(1, "p"))
            await asyncio.sleep(0)
            full = upstreams.gauges()["p"]
            link.pool.release(1)
            await waiter
            handed_on = upstreams.gauges()["p"]
            link.pool.release(1)
            link.pool.release(1)
            return full, handed_on, upstreams.gauges()["p"]

        full, handed_on, free = asyncio.run(story())
        assert (full.in_use, full.waiting, full.limit) == (2, 1, 2)
        assert (handed_on.in_use, handed_on.waiting) == (2, 0)
        assert (free.in_use, free.waiting, free.idle, free.opened_total) == (0, 0, 0, 0)

    def test_a_slot_that_comes_with_a_cancellation_is_passed_on(self):
        make = self.link("http://127.0.0.1:9/v1", max_connections=1)

        async def story():
            _, link = await make()
            assert link.pool.take_free(1)
            first = asyncio.ensure_future(link.pool.wait_for_free(1, "p"))
            second = asyncio.ensure_future(link.pool.wait_for_free(1, "p"))
            await asyncio.sleep(0)
            link.pool.release(1)
            first.cancel()
            await asyncio.wait_for(second, 1)
            with pytest.raises(asyncio.CancelledError):
                await first
            link.pool.release(1)
            return link.pool.in_use

        assert asyncio.run(story()) == 0

    def test_many_who_wait_in_vain_leave_nothing_behind(self):
        make = self.link("http://127.0.0.1:9/v1", max_connections=1, queue_timeout=0.05)

        async def story():
            upstreams, link = await make()
            assert link.pool.take_free(1)
            waiters = [link.pool.wait_for_free(1, "p") for _ in range(100)]
            found = await asyncio.gather(*waiters, return_exceptions=True)
            return found, upstreams.gauges()["p"]

        found, gauges = asyncio.run(story())
        assert {type(error) for error in found} == {PoolExhausted}
        assert (gauges.in_use, gauges.waiting) == (1, 0)

    @pytest.mark.parametrize(
        ("settings", "opened"),
        [
            ({}, 0),
            ({"prewarm": 20}, 20),
            ({"prewarm": 20, "max_connections": 3}, 3),
            ({"prewarm": 20, "keep_alive": 0}, 0),
        ],
    )
    def test_as_many_are_warmed_as_may_be_kept(self, settings, opened):
        async def story(provider_of):
            async with serving(answering(whole())) as server:
                upstreams = Upstreams("fast")
                provider = await asyncio.to_thread(provider_of, server)
                upstreams.link(provider)
                await eventually(lambda: upstreams.gauges()["p"].idle == opened, "they are warm")
                await asyncio.sleep(0.1)  # in which one too many would be opened
                gauges = upstreams.gauges()["p"]
                await upstreams.aclose()
                return gauges

        gauges = asyncio.run(story(lambda server: entry(f"http://127.0.0.1:{server.port}/v1", **settings)))
        assert (gauges.idle, gauges.opened_total) == (opened, opened)

    def test_warm_connections_that_the_server_closes_are_opened_again(self):
        """All of them, each time, and never more."""

        async def story(table_of):
            close = asyncio.Event()

            async def idle(peer):
                await close.wait()

            async with serving(idle) as server:
                upstreams = Upstreams("fast")
                table = await asyncio.to_thread(table_of, server)

                def kept():
                    return upstreams.gauges()["p"].idle

                async def counted(opened):
                    upstreams.follow(table)
                    await eventually(lambda: server.opened >= opened and kept() == 2, "both are open")
                    upstreams.follow(table)
                    await asyncio.sleep(0.1)  # in which one too many would be opened
                    found = server.opened, kept()
                    close.set()
                    await eventually(lambda: not kept(), "the server has closed them")
                    close.clear()
                    return found

                found = [await counted(opened) for opened in (2, 4, 6)]
                await upstreams.aclose()
                return found

        def table_of(server):
            make_provider(slug="p", base_url=f"http://127.0.0.1:{server.port}/v1", prewarm=2)
            return compile_table()

        assert asyncio.run(story(table_of)) == [(2, 2), (4, 2), (6, 2)]

    def test_a_provider_that_is_away_is_only_noted(self, caplog):
        make = self.link(f"http://127.0.0.1:{closed_port()}/v1", prewarm=3)
        caplog.set_level("DEBUG", "proxy.transports.fast")

        async def story():
            upstreams, link = await make()
            await eventually(lambda: "not warmed" in caplog.text, "it is noted")
            assert link.pool.take_free(1)
            await upstreams.aclose()

        asyncio.run(story())
        assert [
            (record.levelname, record.message) for record in caplog.records if "warmed" in record.message
        ] == [("DEBUG", "not warmed: connection failed")]

    def test_pools_of_providers_that_are_gone_are_closed(self):
        provider = entry("http://127.0.0.1:9/v1")
        upstreams = Upstreams("fast")

        async def story(table):
            upstreams.link(provider)
            upstreams.follow(table)
            await asyncio.sleep(0)
            return upstreams.gauges()

        from routing.table import EMPTY_TABLE

        assert asyncio.run(story(EMPTY_TABLE)) == {}


# Keys take turns


class Queueing:
    """Requests by key for the slots of one pool; `order` tells who got one, and who was turned away."""

    def __init__(self, **settings):
        given = {"connect_timeout": 1, "read_timeout": 1, "queue_timeout": 5, "keep_alive": 1}
        self.pool = Pool("fast", Connection(**{**given, **settings}))
        self.order, self.refused, self.tasks = [], [], []

    async def come(self, *keys):
        for key in keys:
            self.tasks.append(asyncio.ensure_future(self.wait(key)))
        await asyncio.sleep(0)

    async def wait(self, key):
        try:
            await self.pool.wait_for_free(key, "p")
            self.order.append(key)
        except PoolExhausted as refusal:
            self.refused.append((key, refusal.message))

    async def free(self, *keys):
        for key in keys:
            self.pool.release(key)
            for _ in range(3):
                await asyncio.sleep(0)

    async def end(self):
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_the_queue_takes_turns_by_key():
    story = Queueing(max_connections=1)
    assert story.pool.take_free(9)
    await story.come(*"aaaa", "b", "c", "b")
    await story.free(9)
    for _ in range(6):
        await story.free(story.order[-1])
    assert "".join(story.order) == "abcabaa"
    await story.end()


async def test_no_key_gets_more_than_its_share_while_another_waits():
    story = Queueing(max_connections=4)
    for _ in range(4):
        assert story.pool.take_free("a")
    await story.come(*"aaaa", *"bbbb")
    await story.free(*"aaaa")
    assert "".join(sorted(story.order)) == "aabb"
    assert "".join(story.order[:2]) == "bb"
    await story.end()


async def test_a_key_may_hold_all_slots_while_nobody_else_waits():
    story = Queueing(max_connections=4)
    for _ in range(4):
        assert story.pool.take_free("a")
    await story.come(*"aa")
    await story.free("a", "a")
    assert story.order == ["a", "a"]
    await story.end()


@pytest.mark.parametrize(("share", "most"), [(0.25, 2), (0.75, 6), (1.0, 8)])
async def test_the_share_is_a_setting(share, most):
    story = Queueing(max_connections=8, key_share=share)
    for _ in range(8):
        assert story.pool.take_free("x")
    await story.come(*"a" * 8)
    await story.come(*"b" * 8)
    await story.free(*"x" * 8)
    assert story.order.count("a") <= max(most, 4)
    assert story.order.count("a") + story.order.count("b") == 8
    await story.end()


async def test_a_full_queue_makes_room_for_who_has_less_in_it():
    story = Queueing(max_connections=1, max_queue=4)
    assert story.pool.take_free("a")
    await story.come(*"aaaa")
    await story.come("b")
    await asyncio.sleep(0)
    assert [key for key, _ in story.refused] == ["a"]
    assert "this key has the most" in story.refused[0][1]
    await story.come(*"aa")
    assert [key for key, _ in story.refused] == ["a", "a", "a"]
    await story.free("a", "a", "b", "a", "a")
    assert "".join(story.order) == "abaa"
    assert story.pool.gauges().in_use == 0
    await story.end()


async def test_whoever_leaves_the_queue_takes_no_slot_with_him():
    story = Queueing(max_connections=1, max_queue=10)
    assert story.pool.take_free("a")
    await story.come(*"aab")
    story.tasks[0].cancel()
    await story.free("a")
    assert story.order in (["a"], ["b"])
    await story.free(*story.order)
    await story.free(story.order[-1])
    assert sorted(story.order) == ["a", "b"]
    gauges = story.pool.gauges()
    assert (gauges.in_use, gauges.waiting, story.pool._held) == (0, 0, {})


def test_one_key_that_fills_pool_and_queue_keeps_no_other_out(door, upstream, served, published):
    greedy = served(max_connections=4, max_queue=4, queue_timeout=20)
    _, other = make_key()
    published()
    gate = threading.Event()
    upstream.always("p1", Answer(chunks=events("a", "b"), gate=gate))
    with ThreadPoolExecutor(16) as callers:
        mine = [callers.submit(door.chat, greedy, stream=True) for _ in range(8)]
        until(lambda: len(upstream.calls("p1")) == 4, "the pool is full")
        time.sleep(0.3)  # the queue, too
        others = callers.submit(door.chat, other, stream=True)
        wait(mine, timeout=20, return_when=FIRST_COMPLETED)  # one of the greedy key's makes room
        gate.set()
        assert others.result().status_code == 200
        statuses = sorted(call.result().status_code for call in mine)
    assert statuses == [200] * 7 + [503]


@pytest.mark.parametrize(
    ("wanted", "proxies", "told"),
    [
        ("fast", {}, "called by the fast transport: no proxy stands before it"),
        ("httpx", {}, "called by the httpx transport: UPSTREAM_TRANSPORT is set to it"),
        ("fast", {"HTTP_PROXY": "http://127.0.0.1:1"}, "called by the httpx transport: HTTP_PROXY is set"),
        ("fast", {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"}, "called by the fast transport"),
    ],
)
async def test_the_log_says_which_transport_serves_and_why(wanted, proxies, told, monkeypatch, caplog):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    caplog.set_level("DEBUG", "proxy.upstreams.pool")  # INFO only where another one serves than is set
    upstreams = Upstreams(wanted)
    for _ in range(2):
        upstreams.link(scripted_provider(1))
    assert len(caplog.messages) == 1
    assert told in caplog.text
    await upstreams.aclose()
