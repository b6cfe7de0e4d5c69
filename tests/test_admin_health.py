"""Providers' health in the admin: the list, the history page, 'check now'."""

import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from monitoring.models import HealthCheck, HealthTransition
from routing.models import MaintenanceWindow, ProviderHealth
from tests.factories import make_provider
from tests.test_admin_providers import row_of
from tests.upstream import Answer

LIST = reverse("admin:routing_provider_changelist")


def checked(provider, hours, ms=50.0, ok=True):
    HealthCheck.objects.create(
        provider=provider,
        at=timezone.now() - timedelta(hours=hours),
        kind="get",
        ok=ok,
        status="healthy" if ok else "unhealthy",
        latency_ms=ms,
        detail="" if ok else "status 500",
    )


def turned(provider, hours, before, after, reason="because"):
    HealthTransition.objects.create(
        provider=provider,
        at=timezone.now() - timedelta(hours=hours),
        before=before,
        after=after,
        reason=reason,
    )


def messages(response):
    return [str(message) for message in response.context["messages"]]


def test_the_list_shows_uptime_and_a_latency_line(admin_client):
    provider, fresh = make_provider(), make_provider()
    turned(provider, 100, "unknown", "healthy")
    turned(provider, 12, "healthy", "unhealthy")
    turned(provider, 6, "unhealthy", "healthy")
    for hours in range(1, 23):
        checked(provider, hours, ms=100 + hours, ok=hours != 9)
    page = admin_client.get(LIST)
    row = row_of(page, provider)
    assert [
        (round(float(percent)), window) for percent, window in re.findall(r"([\d.]+) % (24 h|7 d|30 d)", row)
    ] == [(75, "24 h"), (94, "7 d"), (94, "30 d")]
    [points] = re.findall(r'<polyline[^>]*points="([^"]+)"', row)
    assert len(points.split()) == 22
    assert row.count("<circle") == 1
    assert "up to 122 ms, 1 failed checks" in row
    assert "<svg" not in row_of(page, fresh)


def test_the_list_shows_a_running_maintenance_window(admin_client):
    provider, other = make_provider(), make_provider()
    MaintenanceWindow.objects.create(provider=provider, starts_at=timezone.now() - timedelta(hours=1))
    page = admin_client.get(LIST)
    assert "maintenance" in row_of(page, provider)
    assert "maintenance" not in row_of(page, other)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(), r"p: answered in \d+ ms\. It is healthy\."),
        (Answer(status=503), r"p: status 503\. It is unhealthy\."),
    ],
)
def test_check_now_shows_what_it_found(admin_client, upstream, answer, text):
    upstream.always("p", answer)
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"))
    url = reverse("admin:routing_provider_check", args=[provider.pk])
    [message] = messages(admin_client.post(url, follow=True))
    assert re.fullmatch(text, message)
    assert HealthCheck.objects.count() == 1
    action = {"action": "check_selected", "_selected_action": [provider.pk]}
    [message] = messages(admin_client.post(LIST, action, follow=True))
    assert re.fullmatch(text, message)
    assert HealthCheck.objects.count() == 2
    assert ProviderHealth.objects.get().checked_at > timezone.now() - timedelta(seconds=10)


def test_check_now_is_for_those_who_may_change(client, django_user_model, upstream):
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"))
    client.force_login(django_user_model.objects.create_user("reader", is_staff=True))
    url = reverse("admin:routing_provider_check", args=[provider.pk])
    assert client.post(url).status_code == 403
    assert client.get(reverse("admin:routing_provider_health", args=[provider.pk])).status_code == 403
    assert not HealthCheck.objects.exists()


def test_a_link_checks_nothing(admin_client, upstream):
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"))
    assert admin_client.get(reverse("admin:routing_provider_check", args=[provider.pk])).status_code == 403
    assert not HealthCheck.objects.exists()


def test_too_many_at_once_are_refused(admin_client):
    ids = [make_provider().pk for _ in range(21)]
    answer = admin_client.post(LIST, {"action": "check_selected", "_selected_action": ids}, follow=True)
    assert messages(answer) == ["Select up to 20 providers."]
    assert not HealthCheck.objects.exists()


def test_the_history_page_shows_turns_and_checks(admin_client):
    provider, other = make_provider(), make_provider()
    turned(provider, 2, "healthy", "unhealthy", "3 failed checks in a row, the last one: status 500")
    checked(provider, 2, ms=12.5, ok=False)
    checked(other, 1, ms=77.7)
    page = admin_client.get(reverse("admin:routing_provider_health", args=[provider.pk]))
    assert page.status_code == 200
    text = page.content.decode()
    for shown in ("3 failed checks in a row", "status 500", "12.5 ms", "<svg", "unhealthy"):
        assert shown in text
    assert "77.7 ms" not in text


def test_the_list_takes_the_same_queries_with_any_history(admin_client, django_assert_num_queries):
    for _ in range(5):
        provider = make_provider()
        turned(provider, 3, "unknown", "healthy")
        checked(provider, 1)
    admin_client.get(LIST)
    with django_assert_num_queries(8):  # session, user, two counts, rows; turns, hours, windows
        admin_client.get(LIST)
