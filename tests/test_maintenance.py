"""A provider in a maintenance window gets no traffic, to the second and without Celery."""

import time
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from routing.compiler import compile_table
from routing.models import MaintenanceWindow
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import until

LIST = reverse("admin:routing_maintenancewindow_changelist")
ADD = reverse("admin:routing_maintenancewindow_add")


def in_seconds(seconds):
    return timezone.now() + timedelta(seconds=seconds)


@pytest.fixture
def served(live, published, upstream):
    """(provider a, key): the route gpt has the providers a and b, in this order."""
    route = make_route(name="gpt", strategy="ordered")
    for priority, slug in enumerate("ab"):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), health_check_enabled=False)
        make_target(route=route, provider=provider, priority=priority)
    _, key = make_key()
    published()
    return route.targets.first().provider, key


def test_a_window_stops_traffic_while_it_lasts(door, served, live, upstream):
    provider, key = served
    assert door.chat(key).headers["x-proxy-provider"] == "a"
    starts, ends = in_seconds(2), in_seconds(4)
    MaintenanceWindow.objects.create(provider=provider, starts_at=starts, ends_at=ends)
    seen = []
    while timezone.now() < ends + timedelta(seconds=1.5):
        seen.append((timezone.now(), door.chat(key).headers["x-proxy-provider"]))
        time.sleep(0.05)
    assert {slug for moment, slug in seen if moment < starts} == {"a"}
    slack = timedelta(seconds=1)
    assert {slug for moment, slug in seen if starts + slack < moment < ends} == {"b"}
    assert {slug for moment, slug in seen if moment > ends + slack} == {"a"}


def test_the_only_provider_in_maintenance_is_503_and_says_so(door, served, live, published):
    provider, key = served
    provider.targets.model.objects.exclude(provider=provider).update(enabled=False)
    MaintenanceWindow.objects.create(provider=provider, starts_at=in_seconds(-1), reason="move")
    published()
    answer = door.chat(key)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "no_healthy_upstream"
    assert "in maintenance: a" in answer.json()["error"]["message"]
    health = plain.get(f"{live.url}/health").json()
    assert (health["status"], health["providers"]) == ("degraded", {"a": "maintenance", "b": "healthy"})
    MaintenanceWindow.objects.all().delete()
    until(lambda: door.chat(key).status_code == 200, "it serves again", 2)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("starts", "ends", "resting"),
    [(-9, 9, True), (-9, None, True), (9, 99, False), (-9, -1, False)],
)
def test_a_table_knows_the_windows_of_now(starts, ends, resting):
    provider = make_provider(slug="a", when_unhealthy="try")
    MaintenanceWindow.objects.create(
        provider=provider, starts_at=in_seconds(starts), ends_at=None if ends is None else in_seconds(ends)
    )
    entry = compile_table().providers["a"]
    assert (entry.maintenance, entry.unhealthy, entry.refuse_when_unhealthy) == (resting,) * 3


def form(provider, **values):
    return {
        "provider": provider.pk,
        "reason": "move",
        "starts_at_0": "2026-01-02",
        "starts_at_1": "10:00:00",
        "ends_at_0": "",
        "ends_at_1": "",
        **values,
    }


def test_a_window_is_made_and_ended_in_the_admin(admin_client):
    provider = make_provider()
    assert admin_client.post(ADD, form(provider)).status_code == 302
    window = MaintenanceWindow.objects.get()
    assert "running" in admin_client.get(LIST).content.decode()
    answer = admin_client.post(LIST, {"action": "end_now", "_selected_action": [window.pk]}, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["1 maintenance windows ended."]
    assert "over" in admin_client.get(LIST).content.decode()
    assert not compile_table().providers[provider.slug].maintenance


def test_a_window_that_ends_before_it_starts_is_refused(admin_client):
    values = form(make_provider(), ends_at_0="2026-01-01", ends_at_1="10:00:00")
    page = admin_client.post(ADD, values)
    assert page.context["adminform"].form.errors["__all__"] == ["Until: must be later than from."]
