"""Alerts from what is wrong to the message that arrives, over real HTTP and SMTP."""

import hashlib
import hmac
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from monitoring.alerts import pruning
from monitoring.alerts.channels import SECONDS
from monitoring.alerts.delivering import MOST_ATTEMPTS, deliver
from monitoring.alerts.raising import evaluate
from monitoring.models import Alert, AlertChannel, AlertDelivery, AlertRule, Heartbeat, RequestLog
from monitoring.shipping.storing import store
from routing.models import MaintenanceWindow, ProviderHealth
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider
from tests.live import ROOT, LiveGateway, until
from tests.optional import needs
from tests.test_admin_request_log import make_row
from tests.test_journal_faults import closed
from tests.upstream import Answer

pytestmark = pytest.mark.django_db(transaction=True)
SECRET = "signing-secret"


def make_channel(name="hook", kind="webhook", target="", secret="", **values):
    channel = AlertChannel(name=name, kind=kind, **values)
    channel.target, channel.secret = target, secret
    channel.save()
    return channel


@pytest.fixture
def hook(upstream):
    return make_channel(target=upstream.url("hook"), secret=SECRET)


def ill(slug="p", **values):
    provider = make_provider(slug=slug)
    now = timezone.now()
    ProviderHealth.objects.create(
        provider=provider, status="unhealthy", checked_at=now, changed_at=now, detail="status 500", **values
    )
    return provider


def look(after=0.0):
    """Evaluate as if so many seconds had passed, and send what is due."""
    now = timezone.now() + timedelta(seconds=after)
    evaluate(now)
    send_due()


def send_due():
    AlertDelivery.objects.filter(status="pending").update(next_try_at=timezone.now())
    for thread in deliver(timezone.now()):
        thread.join(30)


def told(upstream, name="hook"):
    """(event, summary) of what has arrived, in order."""
    return [(seen.json["event"], seen.json["summary"]) for seen in upstream.calls(name)]


DOWN = "Provider p is down: status 500"


def test_a_provider_that_goes_down_and_up_is_told_once_each(hook, upstream):
    provider = ill()
    for seconds in (0, 10, 20):
        look(seconds)
    assert told(upstream) == [("fired", DOWN)]
    ProviderHealth.objects.filter(provider=provider).update(status="healthy")
    for seconds in (30, 40):
        look(seconds)
    assert told(upstream) == [("fired", DOWN), ("resolved", DOWN)]
    assert Alert.objects.get().ended_at is not None
    assert set(AlertDelivery.objects.values_list("status", "attempts")) == {("sent", 1)}


def test_a_webhook_is_signed(hook, upstream):
    ill()
    look()
    [seen] = upstream.calls("hook")
    signed = seen.headers["x-switchstand-timestamp"].encode() + b"." + seen.body
    wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert seen.headers["x-switchstand-signature"] == f"sha256={wanted}"
    assert abs(time.time() - int(seen.headers["x-switchstand-timestamp"])) < 30
    assert seen.json["rule"] == "provider_down"
    assert seen.json["subject"] == "p"
    assert seen.json["evidence"]["detail"] == "status 500"


def test_slack_gets_text_that_it_cannot_take_for_markup(upstream):
    make_channel(kind="slack", target=upstream.url("slack"))
    make_key(name="<!channel> & co", expires_at=timezone.now() + timedelta(days=1))
    look()
    [seen] = upstream.calls("slack")
    assert list(seen.json) == ["text"]
    assert "&lt;!channel&gt; &amp; co expires" in seen.json["text"]


def test_maintenance_is_silent(hook, upstream):
    MaintenanceWindow.objects.create(provider=ill())
    look()
    assert told(upstream) == []


def test_reminders_come_until_somebody_acknowledges(hook, upstream, admin_client):
    ill()
    look()
    AlertRule.objects.filter(kind="provider_down").update(remind_minutes=10)
    for minutes in (5, 11, 12, 22):
        look(60 * minutes)
    assert [event for event, _ in told(upstream)] == ["fired", "reminder", "reminder"]
    page = reverse("admin:monitoring_alert_changelist")
    answer = admin_client.post(
        page, {"action": "acknowledge", "_selected_action": [Alert.objects.get().pk]}, follow=True
    )
    assert [str(message) for message in answer.context["messages"]] == ["1 alerts acknowledged."]
    assert Alert.objects.get().acknowledged_by.username == "admin"
    look(60 * 60)
    assert len(told(upstream)) == 3


def findings(kind):
    return list(Alert.objects.filter(rule__kind=kind, ended_at=None).values_list("summary", flat=True))


def test_the_error_rate_needs_enough_requests():
    for number in range(19):
        make_row(status=502 if number < 5 else 200, received_at=timezone.now(), outcome="answered")
    look()
    assert findings("error_rate") == []
    make_row(status=500, received_at=timezone.now(), outcome="failed")
    look(31)
    assert findings("error_rate") == ["30 % of 20 requests in 5 minutes failed"]
    RequestLog.objects.all().delete()
    look(62)
    assert findings("error_rate") == []


def test_slow_answers_of_a_route_are_told():
    now = timezone.now()
    for number in range(40):
        slow = 40_000.0 if number % 10 == 0 else 100.0
        make_row(route="slow", received_at=now, outcome="answered", total_ms=slow, ttft_ms=None)
        # A stream that takes long and began at once is not slow.
        make_row(route="long", received_at=now, outcome="answered", total_ms=90_000.0, ttft_ms=50.0)
    for _ in range(19):
        make_row(route="few", received_at=now, outcome="answered", total_ms=90_000.0, ttft_ms=None)
    look()
    assert findings("latency") == ["5 % of 40 answers of slow took 40,000 ms or more"]
    AlertRule.objects.filter(kind="latency").update(threshold=41_000)
    look(31)
    assert findings("latency") == []


def test_a_budget_is_told_at_its_threshold():
    key, _ = make_key(name="app", budget_usd=Decimal("1"), budget_period="total")
    store([closed(key_id=key.pk, cost_nano_usd=790_000_000)])
    look()
    assert findings("budget") == []
    store([closed(key_id=key.pk, cost_nano_usd=20_000_000)])
    look(61)
    assert findings("budget") == ["key app has used 81 % of its budget (total)"]


def test_backlog_stall_and_expiry_are_found():
    now = timezone.now()
    beats = (("shipper", 5, {"backlog_bytes": 60_000_000}), ("ticks", 120, {}))
    for component, age, details in beats:
        at = now - timedelta(seconds=age)
        Heartbeat.objects.create(component=component, instance="host", at=at, details=details)
    make_key(name="soon", expires_at=now + timedelta(days=6))
    make_key(name="later", expires_at=now + timedelta(days=8))
    look()
    assert findings("backlog") == ["60.0 MB of the journal on host are not in the database yet"]
    [stalled] = findings("stalled")
    assert stalled.startswith("Celery beat: no periodic task has run for 12")
    [expiring] = findings("key_expiring")
    assert expiring.startswith("API key soon expires at ")


def test_a_refused_message_is_tried_again_and_then_given_up(hook, upstream, admin_client):
    upstream.always("hook", Answer(status=503))
    ill()
    evaluate(timezone.now())
    for number in range(1, MOST_ATTEMPTS + 2):
        AlertDelivery.objects.update(next_try_at=timezone.now())
        for thread in deliver(timezone.now()):
            thread.join(30)
        row = AlertDelivery.objects.get()
        assert row.attempts == min(number, MOST_ATTEMPTS)
        assert row.status == ("pending" if number < MOST_ATTEMPTS else "failed")
        assert row.last_error == "status 503"
    assert len(upstream.calls("hook")) == MOST_ATTEMPTS
    for page in ("alertdelivery", "alertchannel"):
        shown = admin_client.get(reverse(f"admin:monitoring_{page}_changelist")).content.decode()
        assert "status 503" in shown
        assert "failed" in shown


def test_a_retry_waits_longer_each_time(hook, upstream):
    upstream.always("hook", Answer(status=503))
    ill()
    pauses = []
    evaluate(timezone.now())
    for _ in range(3):
        AlertDelivery.objects.update(next_try_at=timezone.now())
        for thread in deliver(timezone.now()):
            thread.join(30)
        pauses.append((AlertDelivery.objects.get().next_try_at - timezone.now()).total_seconds())
    assert pauses == [pytest.approx(SECONDS + pause, abs=3) for pause in (15, 30, 60)]


def test_a_channel_that_hangs_delays_no_other(hook, upstream):
    slow = make_channel("slow", target=upstream.url("slow"))
    upstream.always("slow", Answer(delay=30))
    for slug in ("p", "q", "r"):
        ill(slug)
    started = time.monotonic()
    evaluate(timezone.now())
    threads = deliver(timezone.now())
    assert time.monotonic() - started < 2, "nobody waits for a channel"
    until(lambda: len(told(upstream)) == 3, "the good channel has all", 5)
    until(lambda: upstream.calls("slow"), "the slow channel has its first message")
    assert deliver(timezone.now()) == [], "a channel has one thread at a time"
    upstream.always("slow", Answer())  # for the messages after the first
    for thread in threads:
        thread.join(2 * SECONDS)
    rows = AlertDelivery.objects.filter(channel=slow).order_by("created_at", "pk")
    assert list(rows.values_list("status", "last_error")) == [
        ("pending", "no answer within 10 s"),
        ("sent", ""),
        ("sent", ""),
    ]


def test_two_processes_tell_once(hook, upstream):
    ill()
    start = threading.Barrier(4)

    def both():
        start.wait(10)
        try:
            evaluate(timezone.now())
            send_due()
        finally:
            connection.close()

    threads = [threading.Thread(target=both) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    send_due()
    assert told(upstream) == [("fired", DOWN)]


def test_a_rule_that_fails_keeps_no_other_from_telling(hook, upstream, monkeypatch):
    from monitoring.alerts import rules

    def broken(now, rule):
        raise RuntimeError("broken rule")

    monkeypatch.setitem(rules.RULES, "budget", broken)
    ill()
    look()
    assert told(upstream) == [("fired", DOWN)]


class Mailbox(socketserver.StreamRequestHandler):
    """As much SMTP as a client needs."""

    def handle(self):
        self.say("220 test")
        while line := self.rfile.readline().decode().strip().upper():
            if line == "DATA":
                self.say("354 go on")
                lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                self.server.mails.append("\n".join(lines))
            elif line.startswith("RCPT"):
                self.server.recipients.append(line)
            self.say("221 bye" if line == "QUIT" else "250 ok")

    def say(self, text):
        self.wfile.write(f"{text}\r\n".encode())


@pytest.fixture
def mailbox(settings):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox) as server:
        server.mails, server.recipients = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings.EMAIL_BACKEND = "monitoring.alerts.channels.smtp.CheckedEmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = server.server_address
        yield server
        server.shutdown()


def test_mail_reaches_all_addresses(mailbox):
    make_channel(kind="email", target="a@example.com, b@example.com")
    ill()
    look()
    [mail] = mailbox.mails
    assert f"Subject: Switchstand: [fired] {DOWN}" in mail
    assert len(mailbox.recipients) == 2
    assert AlertDelivery.objects.get().status == "sent"


def test_a_mail_server_that_is_away_is_a_failed_try(settings):
    settings.EMAIL_BACKEND = "monitoring.alerts.channels.smtp.CheckedEmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9
    make_channel(kind="email", target="a@example.com")
    ill()
    look()
    assert AlertDelivery.objects.get().last_error == "ConnectionRefusedError: not sent"


CHANNELS = reverse("admin:monitoring_alertchannel_changelist")
ADD = reverse("admin:monitoring_alertchannel_add")


def form(**values):
    return {"name": "ops", "kind": "webhook", "new_target": "", "new_secret": "", "enabled": "on", **values}


def test_a_channel_is_made_and_tested_in_the_admin(admin_client, upstream):
    url = upstream.url("hook")
    assert admin_client.post(ADD, form(new_target=url, new_secret=SECRET)).status_code == 302
    channel = AlertChannel.objects.get()
    assert (channel.target, channel.secret) == (url, SECRET)
    assert url not in channel.encrypted_target
    change = reverse("admin:monitoring_alertchannel_change", args=[channel.pk])
    page = admin_client.get(change).content.decode()
    assert url not in page
    assert SECRET not in page
    found = []
    for answer in (Answer(), Answer(status=404)):
        upstream.always("hook", answer)
        action = {"action": "send_a_test", "_selected_action": [channel.pk]}
        response = admin_client.post(CHANNELS, action, follow=True)
        found += [str(message) for message in response.context["messages"]]
    assert found == ["ops: the test was taken.", "ops: status 404."]
    assert [seen.json["event"] for seen in upstream.calls("hook")] == ["test", "test"]
    assert deliver(timezone.now() + timedelta(days=1)) == []
    assert set(AlertDelivery.objects.values_list("status", "attempts")) == {("sent", 1), ("failed", 1)}


@pytest.mark.parametrize(
    ("kind", "target"), [("webhook", ""), ("webhook", "ftp://x.test"), ("email", "nobody"), ("slack", "x")]
)
def test_an_address_that_cannot_be_is_refused(admin_client, kind, target):
    page = admin_client.post(ADD, form(kind=kind, new_target=target))
    assert "new_target" in page.context["adminform"].form.errors


def test_a_running_gateway_tells(tmp_path, upstream):
    """Without Celery: the shipper's process looks too."""
    make_channel(target=upstream.url("hook"))
    ill()
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "ALERT_TICK_SECONDS": "1"}
    gateway = LiveGateway(tmp_path, env).start()
    try:
        until(lambda: told(upstream) == [("fired", DOWN)], lambda: str(told(upstream)), 20)
    finally:
        gateway.stop()
    body = json.loads(upstream.calls("hook")[0].body)
    assert body["rule"] == "provider_down"


def test_old_alerts_are_deleted_and_what_lasts_is_kept(hook, settings):
    settings.ALERT_HISTORY_DAYS = 30
    now = timezone.now()
    rule = AlertRule.objects.create(kind="provider_down")

    def alert(subject, days, over):
        at = now - timedelta(days=days)
        found = Alert.objects.create(
            rule=rule,
            subject=subject,
            summary=subject,
            started_at=at,
            told_at=at,
            ended_at=at if over else None,
        )
        AlertDelivery.objects.create(
            channel=hook, alert=found, event="fired", summary=subject, created_at=at, status="sent"
        )
        return found

    alert("old", 31, over=True)
    alert("new", 29, over=True)
    alert("lasts", 31, over=False)
    waits = alert("waits", 31, over=True)
    waits.deliveries.update(status="pending")
    AlertDelivery.objects.create(
        channel=hook, event="test", summary="", created_at=now - timedelta(days=31), status="failed"
    )
    pruning.prune(now)
    assert set(Alert.objects.values_list("subject", flat=True)) == {"new", "lasts", "waits"}
    assert set(AlertDelivery.objects.values_list("alert__subject", "status")) == {
        ("new", "sent"),
        ("waits", "pending"),
    }


@needs("Postgres")
def test_workers_on_postgres_deliver_once(postgres_server, tmp_path, upstream):
    """Four processes look at the same time, again and again: each message arrives once."""
    env = os.environ | {
        "DATABASE_URL": postgres_server.create_database("alerts", migrated=True),
        "DATA_DIR": str(tmp_path),
        "HOOK": upstream.url("hook"),
    }
    run = [sys.executable, "-c"]
    made = """if True:
        import os, django
        django.setup()
        from django.utils import timezone
        from monitoring.models import AlertChannel
        from routing.models import Provider, ProviderHealth
        channel = AlertChannel(name="hook", kind="webhook")
        channel.target, channel.secret = os.environ["HOOK"], "s"
        channel.save()
        now = timezone.now()
        for number in range(20):
            provider = Provider.objects.create(slug=f"p{number}", name="p", base_url="http://127.0.0.1:9/v1")
            seen = {"checked_at": now, "changed_at": now}
            ProviderHealth.objects.create(provider=provider, status="unhealthy", **seen)
        """
    subprocess.run([*run, made], env=env, cwd=ROOT, check=True, timeout=60)
    looks = """if True:
        import time, django
        django.setup()
        from django.utils import timezone
        from monitoring.alerts.delivering import deliver
        from monitoring.alerts.raising import evaluate
        from monitoring.models import AlertRule
        start = int(time.time() / 4 + 2) * 4
        time.sleep(start - time.time())
        for _ in range(30):
            AlertRule.objects.update(evaluated_at=None)
            evaluate(timezone.now())
            for thread in deliver(timezone.now()):
                thread.join(30)
        """
    workers = [subprocess.Popen([*run, looks], env=env, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [worker.communicate(timeout=90)[1].decode() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4, errors
    seen = upstream.calls("hook")
    assert sorted(call.json["subject"] for call in seen) == sorted(f"p{number}" for number in range(20))
    assert len({call.json["id"] for call in seen}) == 20
