"""What calls without a valid key leave behind: counts, a bounded sample of rows, bounded caches."""

import json
import tracemalloc

import pytest

from monitoring.models import RequestLog
from monitoring.shipping.shipper import Shipper
from proxy.access import identify, strangers
from proxy.access.client_address import TrustedProxies
from proxy.calls.call import Call, Incoming
from proxy.gateway import build_gateway, stop_gateway
from routing.strategies.sticky import Sticky
from routing.table import EMPTY_TABLE
from tests.factories import make_key
from tests.served_in_process import ORIGIN, ServedInProcess

DOORS = {"fast_lane": {}, "drf": ORIGIN}
TELLING = {
    "x-request-id": "told-by-a-stranger",
    "x-litellm-tags": "told-by-a-stranger",
    "x-client-info": "told-by-a-stranger",
    "x-session-id": "told-by-a-stranger",
}


@pytest.fixture
def served(settings, tmp_path, transactional_db):
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    settings.AUTH_FAILURES_PER_MINUTE = 10**6
    stop_gateway()
    gateway = build_gateway()
    gateway.keeper.refresh()
    with ServedInProcess(gateway) as running:
        yield running


async def knock(served, times, **headers):
    client = await served.client()
    for _ in range(times):
        status, _ = await client.ask(b'{"model": "told-by-a-stranger"}', **headers)
        assert status == 401
    await client.close()


@pytest.mark.parametrize("door", DOORS)
def test_500_calls_without_a_key_leave_a_few_rows_and_are_all_counted(served, door, tmp_path):
    served.run(knock(served, 500, authorization="Bearer wrong", **TELLING, **DOORS[door]))
    Shipper(tmp_path / "journal").ship()
    rows = list(RequestLog.objects.values())
    assert 0 < len(rows) <= 2 * strangers.ROWS_OF_ADDRESS  # a minute may end in between
    assert "told-by-a-stranger" not in json.dumps(rows, default=str)
    assert {(row["endpoint"], row["client_info"]) for row in rows} == {("chat/completions", "127.0.0.1")}
    counted = served._gateway.engine.accounting._counters.requests
    assert sum(series[0] for labels, series in counted.items() if labels[-2:] == ("refused", "4xx")) == 500


def test_many_addresses_together_leave_no_more_rows_than_a_bound():
    now = [0.0]
    sample = strangers.Strangers(TrustedProxies(()), clock=lambda: now[0])
    kept = sum(sample.is_sampled(f"192.0.{n // 256}.{n % 256}") for n in range(5_000))
    assert kept == strangers.ROWS_OF_ALL
    now[0] = 61.0
    assert sample.is_sampled("192.0.2.1")


def test_addresses_of_one_ipv6_network_count_as_one():
    sample = strangers.Strangers(TrustedProxies(()))
    calls = [Call(Incoming("e", {}, b"", 0.0, f"2001:db8::{n:x}"), EMPTY_TABLE) for n in range(1, 50)]
    assert len({sample.address_of(call) for call in calls}) == 1


def kept_by(work):
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_long_keys_are_looked_up_and_never_remembered(transactional_db):
    _, key = make_key(plaintext="sk-" + "x" * 600)
    gateway = build_gateway()
    gateway.keeper.refresh()
    table = gateway.keeper.table
    assert identify.identify({b"authorization": b"Bearer " + key.encode()}, table)[0].name

    def try_many():
        for number in range(400):
            with pytest.raises(identify.InvalidApiKey):
                identify.identify({b"authorization": b"Bearer %d" % number + b"x" * 512 * 1024}, table)
            with pytest.raises(identify.InvalidApiKey):
                identify.identify({b"authorization": b"Bearer %d" % number + b"x" * 4 * 1024}, table)

    assert kept_by(try_many) < 500_000
    with pytest.raises(identify.InvalidApiKey, match="8,192 bytes"):
        identify.identify({b"x-api-key": b"x" * 9000}, table)


def test_long_session_names_take_no_more_room_than_short_ones():
    sticky = Sticky()

    class Target:
        id, rank, weight = 1, 0, 1

    class Pick:
        now, dry = 1.0, False

        def __init__(self, number):
            self.session = lambda: f"{number}" + "\N{SNOWMAN}" * 512

    def see_many():
        for number in range(2_000):
            sticky.order([Target()], Pick(number))

    assert kept_by(see_many) < 2_000 * 500
