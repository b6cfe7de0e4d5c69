"""The admin's usage page: figures, links to the requests behind them, and who may see it."""

import io
import re
import time
from datetime import UTC, datetime, timedelta
from html import unescape
from urllib.parse import parse_qs, urlencode

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from monitoring.shipping.storing import store
from monitoring.usage.rollups import roll_up
from routing.models import Team
from tests.factories import make_team
from tests.test_journal_faults import closed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("own_log")]


@pytest.fixture
def page(admin_client):
    def get(**query):
        roll_up()
        answer = admin_client.get(reverse("admin:monitoring_usage"), query)
        assert answer.status_code == 200
        return answer.content.decode()

    return get


def cells(html, part):
    inside = html.split(f'id="{part}"', 1)[1].split("</table>", 1)[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in inside.split("<tr")[1:]]
    text = [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in row] for row in rows]
    return [row for row in text if row]


def test_the_page_shows_cost_by_team_and_its_total(page):
    facts = {"attempts": 1, "input_tokens": 1000, "output_tokens": 10}
    store([closed(team="search", cost_nano_usd=12_500_000_000, cached_tokens=250, **facts)])
    store([closed(team="ads", cost_nano_usd=None, outcome="upstream_failed", **facts)])
    search, ads, total = cells(page(), "usage")
    assert search[:7] == ["search", "12.5000", "1", "0.0 %", "1,000", "10", "25.0 %"]
    assert ads[:4] == ["ads", "0.0000 1 unknown", "1", "100.0 %"]
    assert total[:3] == ["Total", "12.5000 1 unknown", "2"]


def test_a_line_leads_to_its_requests(page, admin_client):
    mine = closed(team="search", provider="p1")
    old = closed(team="search", provider="p1", received_at_ns=time.time_ns() - 60 * 86400 * 10**9)
    store([mine, old, closed(team="ads", provider="p1")])
    html = page(provider="p1")
    (url,) = {
        unescape(url)
        for url in re.findall(r'href="([^"]*changelist[^"]*|[^"]*requestlog/\?[^"]*team=search[^"]*)"', html)
    }
    listed = admin_client.get(url)
    assert listed.status_code == 200
    assert mine.request_id in listed.content.decode()
    assert old.request_id not in listed.content.decode()


def test_a_wrong_day_is_told_and_the_page_stands(page):
    assert "from is &#x27;never&#x27;" in page(**{"from": "never"})


def test_names_are_shown_as_they_are(page):
    store([closed(team="<script>", attempts=1)])
    assert "<script>" not in page().split('id="usage"', 1)[1].split("</table>")[0]


def test_a_team_that_will_exceed_its_budget_is_marked(page):
    make_team(slug="search", budget_usd="1", budget_period="month")
    store([closed(team="search", cost_nano_usd=2 * 10**9)])
    ((team, spent, _, budget, mark),) = cells(page(), "teams")
    assert (team, spent, budget, mark) == ("search", "2.0000", "1.00", "over budget")


@pytest.mark.parametrize("zone", ["Mars/Phobos", "", "../../etc/passwd", "Europe", "leapseconds"])
def test_a_time_zone_that_is_none_breaks_nothing_and_is_named(page, zone):
    """The admin and configuration files look before it is stored; another machine may know fewer zones."""
    make_team(slug="good", budget_usd="1", budget_period="month")
    Team.objects.filter(pk=make_team(slug="odd").pk).update(time_zone=zone)
    store([closed(team="odd", cost_nano_usd=2 * 10**9), closed(team="good", cost_nano_usd=2 * 10**9)])
    good, odd = cells(page(), "teams")
    assert (good[1], good[-1]) == ("2.0000", "over budget")
    assert (odd[1], odd[-1]) == ("2.0000", "unknown time zone")
    out = io.StringIO()
    call_command("usage_report", stdout=out)
    assert "unknown time zone, UTC instead" in out.getvalue()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="only SQLite stores nonsense")
def test_a_team_that_cannot_be_read_takes_no_other_from_the_page(page):
    make_team(slug="good")
    with connection.cursor() as cursor:
        sql = "UPDATE routing_team SET budget_usd = 'much' WHERE id = %s"
        cursor.execute(sql, [make_team(slug="bad").pk])
    assert [row[0] for row in cells(page(), "teams")] == ["good"]


def sent(form, button, **typed):
    """The address that a browser asks for: the form's fields as they are typed now, and the button's own."""
    inputs = [dict(re.findall(r'([\w-]+)="([^"]*)"', one)) for one in re.findall(r"<input[^>]*>", form)]
    fields = [(one["name"], one.get("value", "")) for one in inputs]
    fields += [("group_by", re.findall(r'<option value="(\w+)" selected', form)[0])]
    given = [(name, typed.get(name, value)) for name, value in fields]
    (attributes,) = re.findall(rf"<button([^>]*)>{button}</button>", form)
    own = dict(re.findall(r'(\w+)="([^"]*)"', attributes))
    given += [(own["name"], own["value"])] if "name" in own else []
    return f"{own['formaction']}?{urlencode(given)}"


def test_the_csv_is_of_the_days_that_the_form_shows_also_after_they_were_changed(page, admin_client):
    long_ago = time.time_ns() - 60 * 86400 * 10**9
    store([closed(team="search"), closed(team="old", received_at_ns=long_ago)])
    form = page().split("<form method", 1)[1].split("</form>", 1)[0]
    day = datetime.fromtimestamp(long_ago / 1e9, UTC).date().isoformat()
    days = {"from": day, "to": day}
    table = admin_client.get(sent(form, "This table as CSV", **days))
    assert table.headers["content-disposition"] == f'attachment; filename="usage-{day}-{day}.csv"'
    assert [line.split(",")[0] for line in table.content.decode().splitlines()] == ["group", "old"]
    address = sent(form, "Its requests as CSV", **days, team="old")
    assert parse_qs(address.partition("?")[2])["group_by"][-1] == "request", "the last one counts"
    requests = admin_client.get(address)
    assert requests.headers["content-disposition"] == table.headers["content-disposition"]


def test_the_page_asks_no_more_queries_for_more_teams(page, admin_client):
    found = []
    for teams in (1, 30):
        for number in range(teams):
            make_team(slug=f"t{teams}-{number}", time_zone="Asia/Tokyo" if number % 2 else "UTC")
        store([closed(team=f"t{teams}-{number}", cost_nano_usd=10**9) for number in range(teams)])
        page()
        with CaptureQueriesContext(connection) as queries:
            admin_client.get(reverse("admin:monitoring_usage"))
        found.append(len(queries))
    assert found[0] == found[1]


def test_what_an_earlier_team_of_the_name_spent_before_is_in_no_expectation(page):
    team = make_team(slug="search")
    store([closed(team="search", cost_nano_usd=7 * 10**9, received_at_ns=time.time_ns() - 2 * 3600 * 10**9)])
    type(team).objects.update(created_at=timezone.now() + timedelta(hours=2))
    ((_, spent, expected, *_),) = cells(page(), "teams")
    assert spent == expected


def test_the_page_needs_the_right_to_see_requests(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("clerk", is_staff=True))
    assert client.get(reverse("admin:monitoring_usage")).status_code == 403
