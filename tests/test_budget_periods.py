"""Budgets seen: told at each percentage once, close ones on the first page, and what every period came to."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.urls import reverse

from monitoring.alerts.raising import evaluate
from monitoring.budgets.periods import recount_closed, update
from monitoring.models import Alert, AlertDelivery, AlertRule, BudgetPeriod
from monitoring.retention.retention import prune_log
from monitoring.shipping.storing import store
from monitoring.usage.rollups import roll_up
from routing.models import GatewaySettings
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.test_alerts import make_channel
from tests.test_journal_faults import closed

pytestmark = pytest.mark.django_db(transaction=True)
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
USD = 10**9


def spend(at, usd, **values):
    store([closed(received_at_ns=int(at.timestamp()) * 10**9, cost_nano_usd=int(usd * USD), **values)])


@pytest.fixture
def team():
    team = make_team(slug="ads", budget_usd=Decimal(10), budget_period="day")
    type(team).objects.update(created_at=NOON - timedelta(days=100))
    return team


def told():
    return [(one.event, one.summary) for one in AlertDelivery.objects.order_by("pk")]


def look(at):
    evaluate(at)
    return told()


def rule(**values):
    evaluate(NOON - timedelta(days=50))  # makes the rules
    AlertRule.objects.exclude(kind="budget").update(enabled=False)
    AlertRule.objects.filter(kind="budget").update(**values)
    make_channel(name="hook", target="http://127.0.0.1:9")


def test_each_percentage_is_told_once_in_each_period(team):
    rule(steps="50, 80, 100")
    spend(NOON, 4, team="ads")
    assert look(NOON) == []
    spend(NOON, 2, team="ads")
    sixty = ("fired", "team ads has used 60 % of its budget (day)")
    for minutes in (2, 4, 600):
        assert look(NOON + timedelta(minutes=minutes)) == [sixty]
    spend(NOON, 5, team="ads")  # over 80 and 100 at once: the higher one says it
    hundred = ("fired", "team ads has used 110 % of its budget (day)")
    for minutes in (602, 604):
        assert look(NOON + timedelta(minutes=minutes)) == [sixty, hundred]
    type(team).objects.update(budget_usd=Decimal(20))  # topped up: 55 %
    assert look(NOON + timedelta(minutes=606)) == [sixty, hundred]
    type(team).objects.update(budget_usd=Decimal(10))
    assert look(NOON + timedelta(minutes=608)) == [sixty, hundred]
    tomorrow = NOON + timedelta(days=1)
    assert look(tomorrow) == [sixty, hundred]
    spend(tomorrow, 8, team="ads")
    assert look(tomorrow + timedelta(minutes=2))[2:] == [
        ("fired", "team ads has used 80 % of its budget (day)")
    ]
    assert Alert.objects.filter(ended_at=None).count() == 2  # 50 and 80 of today


def test_without_percentages_the_threshold_is_one(team):
    rule(steps="", threshold=30)
    spend(NOON, 4, team="ads")
    assert len(look(NOON)) == 1


def test_the_percentages_are_edited_and_checked_in_the_admin(admin_client):
    rule()
    row = AlertRule.objects.get(kind="budget")
    assert row.percentages == [80, 100]
    url = reverse("admin:monitoring_alertrule_change", args=[row.pk])
    form = {"threshold": "80", "remind_minutes": "0", "enabled": "on"}
    assert "whole numbers such as" in admin_client.post(url, form | {"steps": "a"}).content.decode()
    assert admin_client.post(url, form | {"steps": "90, 50"}).status_code == 302
    row.refresh_from_db()
    assert row.percentages == [50, 90]


def history():
    rows = BudgetPeriod.objects.filter(closed_at__isnull=False).order_by("starts_at")
    return [(f"{row.starts_at:%m-%d}", row.spent_usd, row.limit_usd) for row in rows]


def test_a_period_that_resets_leaves_a_row(team):
    spend(NOON, 4, team="ads")
    update(NOON)
    spend(NOON, 1, team="ads")
    midnight = NOON.replace(hour=0) + timedelta(days=1)
    spend(midnight, 2, team="ads")
    update(midnight + timedelta(minutes=1))
    assert history() == []  # calls of yesterday may still run
    assert BudgetPeriod.objects.count() == 2
    update(midnight + timedelta(minutes=11))
    update(midnight + timedelta(minutes=12))
    assert history() == [("06-10", 5, 10)]
    running = BudgetPeriod.objects.get(closed_at=None)
    assert (running.spent_usd, running.used_percent) == (2, 20)


def test_periods_that_nobody_saw_are_made_good(team):
    spend(NOON, 4, team="ads")
    update(NOON)
    spend(NOON + timedelta(days=2), 3, team="ads")
    update(NOON + timedelta(days=4))
    assert history() == [("06-10", 4, 10), ("06-11", 0, 10), ("06-12", 3, 10), ("06-13", 0, 10)]


def test_late_rows_are_added_to_a_closed_period(team):
    update(NOON)
    update(NOON + timedelta(days=1))
    spend(NOON, 7, team="ads")
    recount_closed(NOON + timedelta(days=1))
    assert history() == [("06-10", 7, 10)]
    assert BudgetPeriod.objects.get(closed_at__isnull=False).used_percent == 70


def test_a_budget_that_is_removed_or_gets_another_period_is_closed(team):
    spend(NOON, 4, team="ads")
    update(NOON)
    type(team).objects.update(budget_period="month")
    update(NOON + timedelta(minutes=5))
    assert history() == [("06-10", 4, 10)]
    type(team).objects.update(budget_usd=None)
    update(NOON + timedelta(minutes=10))
    assert history() == [("06-01", 4, 10), ("06-10", 4, 10)]


def test_all_kinds_of_owners_and_rows_that_are_gone(team):
    budget = {"budget_usd": Decimal(10), "budget_period": "total"}
    key, _ = make_key(name="app", **budget)
    target = make_target(route=make_route(**budget), provider=make_provider(**budget), **budget)
    for table in (type(target.route), type(target.provider)):
        table.objects.update(created_at=NOON - timedelta(days=100))
    names = {"route": target.route.name, "provider": target.provider.slug, "target_id": target.pk}
    spend(NOON - timedelta(days=60), 1, key_id=key.pk, team="ads", **names)
    spend(NOON, 2, key_id=key.pk, team="ads", **names)
    GatewaySettings.objects.create(pk=1, log_days=30)
    roll_up()
    prune_log(NOON)
    update(NOON)
    found = {one.kind: one.spent_usd for one in BudgetPeriod.objects.filter(closed_at=None)}
    assert found == {"key": 3, "team": 2, "route": 3, "target": 3, "provider": 3}


def test_the_first_page_shows_who_is_close_to_the_limit(team, admin_client, client, django_user_model):
    make_key(name="idle", budget_usd=Decimal(10), budget_period="day")
    now = datetime.now(UTC)
    spend(now, 9, team="ads")
    update(now)
    page = admin_client.get(reverse("admin:index")).content.decode()
    shown = page.split('id="budgets"')[1].split("</table>")[0]
    assert "team ads" in shown
    assert "90 %" in shown
    assert "idle" not in shown
    listed = admin_client.get(reverse("admin:monitoring_budgetperiod_changelist"), {"state": "running"})
    assert "idle" in listed.content.decode()
    client.force_login(django_user_model.objects.create_user("clerk", is_staff=True))
    assert 'id="budgets"' not in client.get(reverse("admin:index")).content.decode()
