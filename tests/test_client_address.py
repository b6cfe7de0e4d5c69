"""Behind a proxy, failed log-ins count for the client and not for the proxy, and nobody can lie about it."""

import os
import subprocess
import sys
from ipaddress import ip_network

import pytest

from proxy.access.client_address import TrustedProxies, counted_as
from proxy.access.failed_auth import FailedAuth
from proxy.errors import InvalidApiKey
from tests.conftest import TEST_DATABASE
from tests.live import ROOT, Door, LiveGateway

TRUSTED = ("10.0.0.0/8", "192.0.2.1", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("198.51.100.7", "203.0.113.5", "198.51.100.7"),  # not trusted: what it says counts nothing
        ("10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("10.0.0.1", "1.1.1.1, 203.0.113.5", "203.0.113.5"),  # the client itself wrote the first
        ("10.0.0.1", "203.0.113.5, 10.0.0.2,192.0.2.1", "203.0.113.5"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, garbage", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.5, unknown, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "203.0.113.5:4711", "203.0.113.5"),
        ("2001:db8::1", "[2a00::5]:4711", "2a00::5"),
        ("2001:db8::1", "2A00:0::5", "2a00::5"),
        ("::ffff:10.0.0.1", "203.0.113.5", "203.0.113.5"),
        ("", "203.0.113.5", ""),
    ],
)
def test_the_nearest_address_that_is_no_trusted_proxys(peer, forwarded, client):
    proxies = TrustedProxies([ip_network(text) for text in TRUSTED])
    assert proxies.client_of(peer, {b"x-forwarded-for": forwarded.encode()}) == client


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:db8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_subscribers_whole_ipv6_network_is_one_caller(address, counted):
    assert counted_as(address) == counted


def test_wrong_keys_from_one_ipv6_network_count_together():
    failed = FailedAuth(per_minute=2, clock=lambda: 0.0)
    addresses = ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1")
    answers = [failed.count(address, {}, InvalidApiKey("no")).status for address in addresses]
    assert answers == [401, 401, 429, 401]


def test_without_trusted_proxies_the_connection_counts():
    headers = {b"x-forwarded-for": b"203.0.113.5"}
    assert TrustedProxies(()).client_of("10.0.0.1", headers) == "10.0.0.1"


@pytest.mark.parametrize("trusted", [True, False])
def test_failed_log_ins_count_by_client_behind_a_trusted_proxy(tmp_path, transactional_db, trusted):
    proxies = "127.0.0.1, 10.0.0.0/8" if trusted else "10.0.0.0/8"
    env = {"AUTH_FAILURES_PER_MINUTE": "2", "TRUSTED_PROXIES": proxies}
    gateway = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"} | env).start()
    try:
        doors = [Door(name, gateway.url) for name in ("fast_lane", "drf")]

        def fail(client):
            """Through each door; the client adds an address that it made up."""
            forged = {"x-forwarded-for": f"{os.urandom(1)[0]}.1.1.1, {client}"}
            return [door.chat("sk-wrong", headers=forged).status_code for door in doors]

        assert fail("203.0.113.5") == [401, 401]
        assert fail("203.0.113.5") == [429, 429]
        assert fail("203.0.113.6") == ([401, 401] if trusted else [429, 429])
    finally:
        gateway.stop()


def test_a_wrong_list_stops_the_start_and_says_why():
    done = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env=os.environ | {"TRUSTED_PROXIES": "10.0.0.0/8, everybody"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "TRUSTED_PROXIES holds something else than addresses and networks" in done.stderr
    assert "everybody" in done.stderr
