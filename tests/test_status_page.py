"""The status page: who may read it, what it says, and that it does not load the database."""

import asyncio
import json
import re
from datetime import UTC, date, datetime, timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from monitoring.alerts.raising import evaluate
from monitoring.health import availability
from monitoring.health.availability import History, by_checks, of_day, together
from monitoring.health.probe import Result
from monitoring.health.recording import record
from monitoring.incidents import incidents
from monitoring.models import Alert, HealthTransition, Incident, StaleHour
from monitoring.status import page
from monitoring.usage import rollups
from proxy.gateway import _Running, current_gateway
from routing.models import GatewaySettings, MaintenanceWindow, ProviderHealth
from tests import plain
from tests.factories import make_fallback, make_provider, make_route, make_target
from tests.live import until
from tests.test_admin_request_log import make_row

pytestmark = pytest.mark.django_db(transaction=True)

DAY = date(2026, 5, 5)


def at(hour, day=DAY):
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hour)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """A gateway and a page of this test's own."""
    monkeypatch.setattr(_Running, "gateway", None)
    monkeypatch.setattr(page, "pages", page.Pages())
    yield
    if (gateway := current_gateway()) is not None:
        asyncio.run(gateway.aclose())


def publish(**values):
    GatewaySettings.objects.update_or_create(pk=1, defaults={"status_public": True, **values})


def routed(*slugs, name="gpt"):
    route = make_route(name=name)
    for slug in slugs:
        make_target(route=route, provider=make_provider(slug=slug, health_threshold=1))
    return route


def turned(provider, moment, after, before="healthy"):
    HealthTransition.objects.create(provider=provider, at=moment, before=before, after=after, reason="r")


def shown(client):
    answer = client.get("/status.json")
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize("path", ["/status", "/status.json"])
def test_only_staff_may_read_it_until_an_admin_says_otherwise(client, admin_client, django_user_model, path):
    routed("a")
    assert client.get(path).status_code == 404
    client.force_login(django_user_model.objects.create_user("caller"))
    assert client.get(path).status_code == 404
    private = admin_client.get(path)
    assert private.status_code == 200
    assert private["Cache-Control"].startswith("private")
    assert "Access-Control-Allow-Origin" not in private  # "null" is the origin of every sandboxed page
    client.logout()
    settings = admin_client.get(reverse("admin:routing_gatewaysettings_changelist"), follow=True)
    form = settings.context["adminform"].form
    values = {name: form[name].value() for name in form.fields} | {"status_public": "on"}
    given = {name: "" if value is None else value for name, value in values.items() if value is not False}
    change = reverse("admin:routing_gatewaysettings_change", args=[1])
    assert admin_client.post(change, given | {"cors_origins": ""}).status_code == 302
    public = until(lambda: (found := client.get(path)).status_code == 200 and found, "it is public", 3)
    assert public["Cache-Control"].startswith("public")


def test_it_says_how_each_route_is_now(client):
    publish()
    routed("well", name="fine")
    routed("down", name="gone")
    half = routed("down2", name="half")
    make_target(route=half, provider=make_provider(slug="well2"))
    resting = make_provider(slug="resting")
    make_target(route=make_route(name="paused"), provider=resting)
    helped = routed("down3", name="helped")
    make_fallback(helped, half)
    make_route(name="empty")
    make_route(name="off", enabled=False)
    now = timezone.now()
    for slug in ("down", "down2", "down3"):
        provider = make_provider(slug=f"x{slug}") and _provider(slug)
        ProviderHealth.objects.create(provider=provider, status="unhealthy", checked_at=now, changed_at=now)
    MaintenanceWindow.objects.create(
        provider=resting, starts_at=now - timedelta(hours=1), reason="secret move"
    )
    found = shown(client)
    assert {route["name"]: route["status"] for route in found["routes"]} == {
        "empty": "outage",
        "fine": "operational",
        "gone": "outage",
        "half": "degraded",
        "helped": "degraded",
        "paused": "maintenance",
    }
    assert (found["status"], found["text"]) == ("outage", "Some models are not available")
    assert "secret move" not in json.dumps(found)


def _provider(slug):
    from routing.models import Provider

    return Provider.objects.get(slug=slug)


def test_days_are_judged_by_requests_where_there_are_enough(client):
    publish()
    provider = _provider_of(routed("a"))
    now = timezone.now()
    turned(provider, now - timedelta(days=10), "healthy", "unknown")
    yesterday = now - timedelta(days=1)
    for number in range(40):
        make_row(route="gpt", received_at=yesterday, **_outcome(number))
    for _ in range(100):  # the callers' own fault
        make_row(route="gpt", received_at=yesterday, outcome="upstream_failed", status=400)
        make_row(route="gpt", received_at=yesterday, outcome="refused", status=429)
        make_row(route="gpt", received_at=yesterday, outcome="client_gone", status=None)
    make_row(route="gpt", received_at=now - timedelta(days=2), outcome="failed", status=500)
    StaleHour.objects.bulk_create(
        [StaleHour(hour=rollups.hour_of(now - timedelta(days=days)), changes=1) for days in (1, 2)]
    )
    rollups.roll_up()
    [route] = shown(client)["routes"]
    assert len(route["days"]) == 90
    assert [day["availability"] for day in route["days"][-3:]] == [100.0, 87.5, 100.0]
    assert [day["availability"] for day in route["days"][:79]] == [None] * 79
    assert route["availability_90d"] == pytest.approx((10 * 100 + 87.5) / 11, abs=0.001)


def _outcome(number):
    faults = [("upstream_failed", 502), ("upstream_broken", 200), ("failed", 500), ("upstream_failed", 429)]
    faults += [("refused", 503)]
    outcome, status = faults[number] if number < len(faults) else ("answered", 200)
    return {"outcome": outcome, "status": status}


def _provider_of(route):
    return route.targets.first().provider


def test_a_route_is_down_while_all_its_providers_are():
    first, second = make_provider(health_threshold=1), make_provider(health_threshold=1)
    turned(first, at(-48), "healthy", "unknown")
    turned(second, at(-24), "healthy", "unknown")
    turned(first, at(6), "unhealthy")
    turned(first, at(18), "healthy")
    turned(second, at(12), "unhealthy")
    turned(second, at(20), "degraded")
    found = availability.histories([first.pk, second.pk], at(48))
    route = together(list(found.values()))
    assert route.down == [(at(12), at(18))]
    assert by_checks(route, DAY) == 75.0
    assert by_checks(route, DAY - timedelta(days=1)) == 100.0
    assert by_checks(route, DAY - timedelta(days=3)) is None
    assert by_checks(found[first.pk], DAY) == 50.0
    assert of_day({DAY: (20, 1)}, route, DAY) == 95.0
    assert of_day({DAY: (19, 19)}, route, DAY) == 75.0


def test_a_route_without_providers_has_no_history():
    assert together([]) == History()


def test_incidents_follow_a_provider_that_goes_down_and_comes_back(client):
    publish()
    provider, now = _provider_of(routed("a")), timezone.now()
    results = ((50, ""), (40, "status 500"), (30, ""), (25, "status 500"), (5, ""), (1, ""))
    for minutes, problem in results:
        record(Result(provider, now - timedelta(minutes=minutes), "get", 5.0, problem))
    [row] = Incident.objects.all()  # the second time came soon after the first: the same one
    assert row.title == "Reduced availability of gpt"
    assert row.started_at == now - timedelta(minutes=40)
    assert row.ended_at == now - timedelta(minutes=5)
    [found] = shown(client)["incidents"]
    assert (found["kind"], found["title"], found["routes"]) == ("incident", row.title, ["gpt"])
    assert found["ended_at"] is not None


def test_a_later_outage_is_another_incident():
    provider, now = _provider_of(routed("a")), timezone.now()
    for minutes, problem in ((90, "x"), (80, ""), (60, "x"), (50, "")):
        record(Result(provider, now - timedelta(minutes=minutes), "get", 5.0, problem))
    assert Incident.objects.count() == 2


def test_maintenance_and_providers_that_serve_nothing_make_no_incident():
    resting, idle = _provider_of(routed("a")), make_provider(slug="idle", health_threshold=1)
    now = timezone.now()
    MaintenanceWindow.objects.create(provider=resting, starts_at=now - timedelta(hours=1))
    for provider in (resting, idle):
        record(Result(provider, now, "get", 5.0, "status 500"))
        assert ProviderHealth.objects.get(provider=provider).status == "unhealthy"
    assert not Incident.objects.exists()


def test_an_incident_ends_when_its_provider_is_watched_no_more():
    provider, now = _provider_of(routed("a")), timezone.now()
    record(Result(provider, now, "get", 5.0, "status 500"))
    assert incidents.end_left(now) == 0
    provider.enabled = False
    provider.save()
    assert incidents.end_left(now) == 1
    assert Incident.objects.get().ended_at == now


def test_an_alert_about_all_requests_is_an_incident():
    now = timezone.now()
    for _ in range(20):
        make_row(status=500, outcome="failed", received_at=now)
    evaluate(now)
    row = Incident.objects.get()
    assert (row.title, row.ended_at) == ("More requests than usual fail", None)
    assert row.alert == Alert.objects.get()
    later = now + timedelta(minutes=6)
    evaluate(later)
    assert Incident.objects.get().ended_at == later


def test_maintenance_is_announced(client):
    publish()
    provider, now = _provider_of(routed("a")), timezone.now()
    for start, end in ((-100, -99), (-1, 1), (24, 25), (24 * 20, 24 * 20 + 1)):
        MaintenanceWindow.objects.create(
            provider=provider,
            starts_at=now + timedelta(hours=start),
            ends_at=now + timedelta(hours=end),
            reason="for admins",
        )
    found = shown(client)["incidents"]
    assert [entry["title"] for entry in found] == [
        "Maintenance under way",
        "Planned maintenance",
        "Maintenance",
    ]
    assert all(entry["routes"] == ["gpt"] and entry["kind"] == "maintenance" for entry in found)


def test_an_admin_adds_and_explains_incidents(client, admin_client):
    publish()
    provider, now = _provider_of(routed("a")), timezone.now()
    record(Result(provider, now - timedelta(minutes=9), "get", 5.0, "status 500"))
    recorded = Incident.objects.get()
    values = {
        "title": "Slow answers",
        "note": "We are <b>on</b> it.",
        "started_at_0": "2026-01-01",
        "started_at_1": "10:00:00",
        "ended_at_0": "",
        "ended_at_1": "",
        "routes": "gpt",
        "shown": "on",
    }
    assert admin_client.post(reverse("admin:monitoring_incident_add"), values).status_code == 302
    change = reverse("admin:monitoring_incident_change", args=[recorded.pk])
    values["title"], values["note"] = recorded.title, "The provider tells of a power cut."
    assert admin_client.post(change, values).status_code == 302
    text = until(
        lambda: "power cut" in (body := client.get("/status").content.decode()) and body, "the note shows", 20
    )
    assert "We are &lt;b&gt;on&lt;/b&gt; it." in text
    hidden = {name: value for name, value in values.items() if name != "shown"}
    assert admin_client.post(change, hidden).status_code == 302
    assert Incident.objects.get(pk=recorded.pk).provider == provider
    page.pages = page.Pages()
    assert "power cut" not in client.get("/status").content.decode()


def test_it_names_providers_only_where_an_admin_says_so(client):
    publish()
    provider = _provider_of(routed("internal-name"))
    record(Result(provider, timezone.now(), "get", 5.0, "status 500"))
    MaintenanceWindow.objects.create(provider=provider, starts_at=timezone.now() + timedelta(days=1))
    for path in ("/status", "/status.json"):
        assert "internal-name" not in client.get(path).content.decode()
    publish(status_names_providers=True)
    until(lambda: "internal-name" in client.get("/status").content.decode(), "providers are named", 3)
    [route] = shown(client)["routes"]
    assert route["providers"] == [{"name": "internal-name", "status": "outage"}]


def test_the_page_has_a_bar_for_each_day_and_runs_no_script(client):
    publish()
    routed("a")
    answer = client.get("/status")
    text = answer.content.decode()
    assert len(re.findall(r'<i class="(?:none|good|fair|poor|bad)" title="\d{4}-\d\d-\d\d: ', text)) == 90
    assert "default-src 'none'" in answer["Content-Security-Policy"]
    assert "<script" not in text


def test_many_readers_cost_one_page(client, django_assert_num_queries):
    publish()
    routed("a")
    assert client.get("/status").status_code == 200
    with django_assert_num_queries(0):
        for path in ("/status", "/status.json") * 50:
            assert client.get(path).status_code == 200


def test_without_its_database_the_last_page_is_shown(client, monkeypatch):
    from django.db import OperationalError

    publish()
    routed("a")
    before = shown(client)
    monkeypatch.setattr(page, "FRESH_SECONDS", 0.0)

    def away(*_):
        raise OperationalError("away")

    monkeypatch.setattr(availability, "histories", away)
    assert shown(client) == before
    monkeypatch.setattr(page, "pages", page.Pages())
    assert client.get("/status").status_code == 503


def test_a_live_gateway_serves_it(live, published):
    publish()
    routed("a")
    published()
    answer = until(
        lambda: (found := plain.get(f"{live.url}/status")).status_code == 200 and found, "it is served", 20
    )
    assert answer.headers["content-type"].startswith("text/html")
    assert plain.get(f"{live.url}/status.json").json()["routes"][0]["name"] == "gpt"
