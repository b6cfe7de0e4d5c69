"""Rows say who called, as far as CLIENT_DETAILS lets them, and whose fault a refusal was."""

import subprocess
import sys
from ipaddress import ip_network

import pytest

from monitoring.models import RequestLog, RowSeal, UsageHour
from monitoring.request_log.seals import COLUMNS, checksum, facts_of_row
from monitoring.shipping.storing import store
from monitoring.usage.report import Line, count
from proxy.access.client_address import Callers, TrustedProxies
from proxy.journal.records import from_line, to_line
from tests import plain
from tests.environment import DATA_DIR
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ROOT, until
from tests.test_admin_request_log import detail, make_row
from tests.test_journal_faults import closed
from tests.upstream import Answer

PROXIES = TrustedProxies([ip_network("10.0.0.0/8")])
TOO_LONG = {"message": "maximum context length", "code": "context_length_exceeded"}


@pytest.fixture
def gpt(upstream, published):
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    _, key = make_key(name="app")
    published()
    return key


def test_the_row_of_a_call_with_a_key_has_its_address_and_user_agent(door, gpt, logged):
    agent = "OpenAI/Python 1.2 " + "x" * 300
    row = logged(door.chat(gpt, headers={"user-agent": agent}))
    assert (row.client_address, row.user_agent) == ("127.0.0.1", agent[:200])


def test_so_has_the_row_of_a_refusal(door, gpt, logged):
    row = logged(door.chat(gpt, "no-such-model", headers={"user-agent": "curl/8"}))
    assert (row.outcome, row.client_address, row.user_agent) == ("refused", "127.0.0.1", "curl/8")


def test_a_row_without_a_valid_key_says_nothing_of_who_called(door, gpt, logged):
    row = logged(door.chat("sk-wrong-key-0000000000", headers={"user-agent": "curl/8"}))
    assert (row.status, row.client_address, row.user_agent) == (401, None, None)


@pytest.mark.parametrize(
    ("peer", "forwarded", "kept", "shown"),
    [
        ("203.0.113.77", b"", "keep", "203.0.113.77"),
        ("203.0.113.77", b"", "cut", "203.0.113.0/24"),
        ("2001:db8:1:2:3::4", b"", "cut", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", b"", "cut", "fe80::/64"),
        ("10.1.1.1", b"203.0.113.77", "keep", "203.0.113.77"),
        ("203.0.113.77", b"192.0.2.1", "keep", "203.0.113.77"),
        ("10.1.1.1", b"6.6.6.6, " * 40 + b"203.0.113.77", "cut", "203.0.113.0/24"),
        ("10.1.1.1", b"fe80::1%" + b"z" * 80, "keep", ("fe80::1%" + "z" * 80)[:45]),
        ("", b"", "cut", ""),
    ],
)
def test_an_address_is_shown_as_the_setting_says(peer, forwarded, kept, shown):
    headers = {b"x-forwarded-for": forwarded} if forwarded else {}
    assert Callers(kept, PROXIES).address_of(peer, headers) == shown


def test_dropped_details_are_not_even_looked_at():
    assert not Callers("drop", PROXIES).kept


def test_another_word_stops_the_start():
    env = {"DJANGO_SETTINGS_MODULE": "gateway_project.settings", "DATA_DIR": str(DATA_DIR)}
    code = "from django.conf import settings; print(settings.CLIENT_DETAILS)"
    command = [sys.executable, "-c", code]
    bad = subprocess.run(
        command, cwd=ROOT, env=env | {"CLIENT_DETAILS": "off"}, capture_output=True, text=True, check=False
    )
    assert "CLIENT_DETAILS is 'off'; allowed are keep, cut, drop." in bad.stderr


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_journal_from_before_the_columns_still_ships():
    old = to_line(closed())
    assert b"user_agent" not in old
    assert b"client_address" not in old
    store([from_line(old)])
    row = RequestLog.objects.values(*COLUMNS).get()
    assert row["client_address"] is None
    assert RowSeal.objects.get().checksum == checksum(facts_of_row(row))


@pytest.mark.parametrize("error", [{"message": "temperature is too hot"}, TOO_LONG])
def test_a_400_that_is_the_callers_fault_is_no_failure_of_the_provider(
    door, upstream, gpt, logged, live, error
):
    upstream.always("p1", Answer(status=400, body={"error": error}))
    row = logged(door.chat(gpt))
    assert (row.outcome, row.status, row.attempts) == ("caller_error", 400, 1)
    page = f"{live.url}/metrics"
    until(lambda: 'outcome="caller_error"' in plain.get(page, headers=live.token).text, "it is counted")


def test_usage_counts_it_neither_as_an_error_nor_as_a_refusal():
    line = Line("")
    count(line, UsageHour(outcome="caller_error", requests=3))
    assert (line.requests, line.errors, line.refused) == (3, 0, 0)


@pytest.mark.django_db
def test_the_admin_shows_it_in_no_red_and_who_called(admin_client):
    row = make_row(outcome="caller_error", status=400, client_address="192.0.2.7", user_agent="curl/8")
    page = admin_client.get(detail(row)).content.decode()
    badge = page[page.index("caller error") - 400 : page.index("caller error")]
    assert "red" not in badge
    assert "192.0.2.7" in page
    assert "curl/8" in page
