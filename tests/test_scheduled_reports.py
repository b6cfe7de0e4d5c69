"""Scheduled reports: each period once, also after missed runs and failures, over real HTTP and SMTP."""

import csv
import hashlib
import hmac
import io
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.urls import reverse

from monitoring.models import AlertChannel, AlertDelivery, AlertRule, ReportDelivery, ScheduledReport
from monitoring.reports.due import last_period
from monitoring.reports.sending import tick
from monitoring.shipping.storing import store
from monitoring.tasks import send_reports
from tests.factories import make_team
from tests.test_alerts import SECRET, Mailbox, ill, look, mailbox, make_channel
from tests.test_journal_faults import closed
from tests.upstream import Answer

__all__ = ["Mailbox", "mailbox"]
pytestmark = pytest.mark.django_db(transaction=True)
MONDAY = datetime(2026, 6, 1, 7, tzinfo=UTC)


@pytest.fixture
def hook(upstream):
    return make_channel(target=upstream.url("hook"), secret=SECRET)


def make_report(*channels, created=MONDAY - timedelta(days=90), **values):
    report = ScheduledReport.objects.create(**{"name": "costs", "created_at": created} | values)
    report.channels.set(channels)
    return report


def called(at, **values):
    return closed(received_at_ns=int(at.timestamp()) * 10**9, attempts=1, **values)


def lines(seen):
    return list(csv.DictReader(io.StringIO(seen.body.decode())))


@pytest.mark.parametrize(
    ("period", "days"),
    [
        ("day", ("2026-05-31", "2026-05-31")),
        ("week", ("2026-05-25", "2026-05-31")),
        ("month", ("2026-05-01", "2026-05-31")),
    ],
)
def test_the_last_period_is_the_newest_that_has_ended(period, days):
    assert tuple(map(str, last_period(period, MONDAY.date()))) == days
    assert last_period("week", (MONDAY - timedelta(days=1)).date())[0].isoformat() == "2026-05-18"


def test_a_report_arrives_as_signed_csv_once(hook, upstream):
    day = MONDAY - timedelta(days=3)
    store([called(day, team="ads", cost_nano_usd=5), called(day, team="=x()", cost_nano_usd=3)])
    store([called(MONDAY, team="ads", cost_nano_usd=100)])  # of the week that runs
    make_report(hook)
    assert tick(MONDAY) == 1
    for later in (0, 60, 86400, 6 * 86400):
        assert tick(MONDAY + timedelta(seconds=later)) == 0
    (seen,) = upstream.calls("hook")
    assert [(line["group"], line["cost_usd"]) for line in lines(seen)] == [
        ("ads", "0.000000005"),
        ("'=x()", "0.000000003"),
    ]
    assert seen.headers["content-type"].startswith("text/csv")
    assert 'filename="usage-2026-05-25-2026-05-31.csv"' in seen.headers["content-disposition"]
    signed = seen.headers["x-switchstand-timestamp"].encode() + b"." + seen.body
    wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert seen.headers["x-switchstand-signature"] == f"sha256={wanted}"
    delivery = ReportDelivery.objects.get()
    assert (delivery.status, delivery.attempts, delivery.last_error) == ("sent", 1, "")


def test_it_waits_for_its_hour_and_begins_with_the_period_that_it_was_made_in(hook, upstream):
    make_report(hook, period="day", hour=6, created=MONDAY - timedelta(days=1))
    assert tick(MONDAY.replace(hour=5, minute=59)) == 0
    assert tick(MONDAY.replace(hour=6)) == 1
    make_report(hook, name="new", period="day", created=MONDAY)
    assert tick(MONDAY) == 0
    assert tick(MONDAY + timedelta(days=1)) == 2


def test_of_missed_periods_the_newest_is_sent_once(hook, upstream):
    make_report(hook, period="day")
    tick(MONDAY)
    assert tick(MONDAY + timedelta(days=5)) == 1
    assert [str(one.first) for one in ReportDelivery.objects.order_by("pk")] == ["2026-05-31", "2026-06-05"]
    assert len(upstream.calls("hook")) == 2


def test_two_workers_send_it_once(hook, upstream):
    make_report(hook, period="day")

    def work():
        tick(MONDAY)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(upstream.calls("hook")) == 1


def test_a_failure_is_shown_and_tried_again_under_the_same_id(hook, upstream, admin_client):
    upstream.script("hook", Answer(status=500), Answer(status=500))
    make_report(hook, period="day")
    assert tick(MONDAY) == 1
    page = admin_client.get(reverse("admin:monitoring_reportdelivery_changelist")).content.decode()
    assert "status 500" in page
    assert tick(MONDAY + timedelta(seconds=60)) == 0
    assert tick(MONDAY + timedelta(seconds=120)) == 1
    assert tick(MONDAY + timedelta(seconds=400)) == 1
    calls = upstream.calls("hook")
    assert len({seen.headers["x-switchstand-delivery"] for seen in calls}) == 1
    assert ReportDelivery.objects.get().status == "sent"


def test_it_is_given_up_after_eight_tries(hook, upstream):
    upstream.always("hook", Answer(status=500))
    make_report(hook, period="day")
    for number in range(12):
        tick(MONDAY + timedelta(hours=number))
    delivery = ReportDelivery.objects.get()
    assert (delivery.status, delivery.attempts) == ("failed", 8)
    assert len(upstream.calls("hook")) == 8


@pytest.mark.parametrize(("answer", "status"), [(Answer(), "sent"), (Answer(status=500), "failed")])
def test_a_report_that_is_sent_by_hand_is_one_attempt(hook, upstream, admin_client, answer, status):
    report = make_report(hook)
    upstream.always("hook", answer)
    changelist = reverse("admin:monitoring_scheduledreport_changelist")
    admin_client.post(changelist, {"action": "send_now", "_selected_action": [report.pk]})
    delivery = ReportDelivery.objects.get()
    assert (delivery.status, delivery.attempts) == (status, 1)
    ScheduledReport.objects.update(enabled=False)
    assert tick(MONDAY + timedelta(days=3650)) == 0, "what failed is told at once, and not tried again"


def test_a_channel_gets_what_it_is_for(upstream):
    """As its purpose says, whatever a rule or a report names; one that says nothing gets both."""
    for purpose in ("alerts", "reports", "both"):
        make_channel(name=purpose, target=upstream.url(purpose), purpose=purpose)
    assert AlertChannel._meta.get_field("purpose").default == "both"
    make_report(*AlertChannel.objects.all())
    assert tick(MONDAY) == 2
    ill()
    look()
    assert set(AlertDelivery.objects.values_list("channel__name", flat=True)) == {"alerts", "both"}
    assert len(upstream.calls("alerts")) == 1
    assert len(upstream.calls("reports")) == 1


def test_a_rule_that_names_only_a_channel_for_reports_tells_those_for_alerts(upstream):
    make_channel(name="mine", target=upstream.url("mine"))
    wrong = make_channel(name="wrong", target=upstream.url("wrong"), purpose="reports")
    AlertRule.objects.create(kind="provider_down").channels.set([wrong])
    ill()
    look()
    assert AlertDelivery.objects.get().channel.name == "mine"


def test_the_admin_offers_alerts_and_lets_no_channel_lose_its_reports(upstream, admin_client, hook):
    add = admin_client.get(reverse("admin:monitoring_alertchannel_add"))
    assert add.context["adminform"].form.initial["purpose"] == "alerts"
    make_report(hook, name="costs of all")
    change = reverse("admin:monitoring_alertchannel_change", args=[hook.pk])
    form = {"name": "hook", "kind": hook.kind, "purpose": "alerts", "enabled": "on"}
    refused = admin_client.post(change, form)
    assert "costs of all" in str(refused.context["adminform"].form.errors["purpose"])
    only_alerts = make_channel(name="pager", target=upstream.url("pager"), purpose="alerts")
    report = {"name": "r", "period": "week", "hour": 6, "group_by": "team", "format": "csv"}
    made = admin_client.post(
        reverse("admin:monitoring_scheduledreport_add"), report | {"channels": [only_alerts.pk]}
    )
    assert "pager: for alerts only" in str(made.context["adminform"].form.errors["channels"])


def test_html_by_mail_shows_usage_and_the_months_forecast(mailbox):
    make_team(slug="ads", budget_usd="10", budget_period="month")
    store([called(MONDAY - timedelta(days=1), team="ads", cost_nano_usd=2 * 10**9)])
    make_report(make_channel(kind="email", target="a@example.com, b@example.com"), format="html")
    assert tick(MONDAY) == 1
    (mail,) = mailbox.mails
    assert "Subject: Switchstand: costs: 2026-05-25 to 2026-05-31" in mail
    assert "Message-ID: <report-" in mail
    assert "text/html" in mail
    for shown in ("2.000000000", "expected at its end", "10.000000000"):
        assert shown in mail
    assert len(mailbox.recipients) == 2


def test_csv_by_mail_is_attached(mailbox):
    make_report(make_channel(kind="email", target="a@example.com"))
    tick(MONDAY)
    assert 'filename="usage-2026-05-25-2026-05-31.csv"' in mailbox.mails[0]


def test_each_request_by_webhook_is_a_line(hook, upstream):
    calls = [called(MONDAY - timedelta(hours=n), team="ads") for n in range(8, 48)]
    store(calls)
    make_report(hook, group_by="request", period="day", team="ads")
    tick(MONDAY)
    found = {line["id"] for line in lines(upstream.calls("hook")[0])}
    assert found == {call.id for call in calls[:24]}  # of Sunday


def test_send_now_sends_again_and_says_what_failed(hook, upstream, admin_client):
    report = make_report(hook, period="day")
    url = reverse("admin:monitoring_scheduledreport_changelist")
    post = {"action": "send_now", "_selected_action": [report.pk]}
    assert "costs: sent." in admin_client.post(url, post, follow=True).content.decode()
    upstream.script("hook", Answer(status=404))
    assert "hook: status 404" in admin_client.post(url, post, follow=True).content.decode()
    assert [one.status for one in ReportDelivery.objects.order_by("pk")] == ["sent", "failed"]
    assert tick(datetime.now(UTC)) == (
        0 if report.hour > datetime.now(UTC).hour else 1
    )  # its own run stays due


def test_the_admin_makes_reports_and_refuses_channels_that_take_no_file(hook, admin_client):
    url = reverse("admin:monitoring_scheduledreport_add")
    form = {"name": "n", "period": "week", "hour": "6", "group_by": "team", "format": "csv", "enabled": "on"}
    slack = make_channel(name="chat", kind="slack", target="https://example.com")
    page = admin_client.post(url, form | {"channels": [slack.pk]}).content.decode()
    assert "chat: allowed are channels for e-mail and webhooks." in page
    mail = make_channel(name="mail", kind="email", target="a@example.com")
    page = admin_client.post(url, form | {"channels": [mail.pk], "group_by": "request"}).content.decode()
    assert "allowed are webhooks only" in page
    page = admin_client.post(url, form | {"channels": [hook.pk], "hour": "24"}).content.decode()
    assert "less than or equal to 23" in page
    assert admin_client.post(url, form | {"channels": [hook.pk]}).status_code == 302
    assert ScheduledReport.objects.get().channels.get() == hook


def test_the_task_sends_what_is_due(hook, upstream):
    make_report(hook, period="day", hour=0, created=datetime.now(UTC) - timedelta(days=3))
    send_reports()
    assert len(upstream.calls("hook")) == 1
    assert time.time() - ReportDelivery.objects.get().sent_at.timestamp() < 60
