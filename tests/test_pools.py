"""A provider's pool: slots, the bounded queue before them, warm connections, gauges."""

import asyncio
import socket
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from proxy.errors import PoolExhausted
from proxy.upstreams import Upstreams
from routing.compiler import compile_table
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import eventually
from tests.raw_server import answering, serving, whole
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
            assert link.pool.take_free()
            assert link.pool.take_free()
            assert not link.pool.take_free()
            waiter = asyncio.ensure_future(link.pool.wait_for_free("p"))
            await asyncio.sleep(0)
            full = upstreams.gauges()["p"]
            link.pool.release()
            await waiter
            handed_on = upstreams.gauges()["p"]
            link.pool.release()
            link.pool.release()
            return full, handed_on, upstreams.gauges()["p"]

        full, handed_on, free = asyncio.run(story())
        assert (full.in_use, full.waiting, full.limit) == (2, 1, 2)
        assert (handed_on.in_use, handed_on.waiting) == (2, 0)
        assert (free.in_use, free.waiting, free.idle, free.opened_total) == (0, 0, 0, 0)

    def test_a_slot_that_comes_with_a_cancellation_is_passed_on(self):
        make = self.link("http://127.0.0.1:9/v1", max_connections=1)

        async def story():
            _, link = await make()
            assert link.pool.take_free()
            first = asyncio.ensure_future(link.pool.wait_for_free("p"))
            second = asyncio.ensure_future(link.pool.wait_for_free("p"))
            await asyncio.sleep(0)
            link.pool.release()
            first.cancel()
            await asyncio.wait_for(second, 1)
            with pytest.raises(asyncio.CancelledError):
                await first
            link.pool.release()
            return link.pool.in_use

        assert asyncio.run(story()) == 0

    def test_many_who_wait_in_vain_leave_nothing_behind(self):
        make = self.link("http://127.0.0.1:9/v1", max_connections=1, queue_timeout=0.05)

        async def story():
            upstreams, link = await make()
            assert link.pool.take_free()
            waiters = [link.pool.wait_for_free("p") for _ in range(100)]
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
            assert link.pool.take_free()
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
