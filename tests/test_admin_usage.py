"""The admin's usage page: figures, links to the requests behind them, and who may see it."""

import re
import time
from html import unescape

import pytest
from django.urls import reverse

from monitoring.rollups import roll_up
from monitoring.storing import store
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


def test_the_page_needs_the_right_to_see_requests(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("clerk", is_staff=True))
    assert client.get(reverse("admin:monitoring_usage")).status_code == 403
