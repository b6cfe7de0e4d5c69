"""Providers in the admin, through its real pages."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from routing.models import Provider, ProviderHealth, RoutingVersion
from tests.factories import make_provider, make_route, make_target

LIST = reverse("admin:routing_provider_changelist")
ADD = reverse("admin:routing_provider_add")
SECRET = "sk-live-0123456789abcdef-tail"


def change(provider):
    return reverse("admin:routing_provider_change", args=[provider.pk])


def form(**values):
    return {
        "slug": "openai",
        "name": "OpenAI",
        "dialect": "openai",
        "base_url": "https://api.openai.com/v1",
        "new_api_key": "",
        "extra_headers": "",
        "api_version": "",
        "connect_timeout": "10",
        "read_timeout": "60",
        "max_connections": "100",
        "queue_timeout": "5",
        "max_queue": "1000",
        "prewarm": "0",
        "key_share_percent": "50",
        "max_answer_bytes": "33554432",
        "keep_alive": "60",
        "retries": "1",
        "retry_delay": "0.5",
        "rpm": "",
        "tpm": "",
        "parallel": "",
        "budget_period": "total",
        "health_check_enabled": "on",
        "health_path": "",
        "health_interval": "30",
        "health_timeout": "5",
        "health_threshold": "1",
        "health_recovery": "1",
        "health_slow_ms": "",
        "health_model": "",
        "when_unhealthy": "",
        "when_abandoned": "cancel",
        "stream_usage": "",
        "enabled": "on",
        **values,
    }


def errors(response):
    assert response.status_code == 200
    return response.context["adminform"].form.errors


def probed(provider, *, status="healthy", ago=1.0, **values):
    moment = timezone.now() - timedelta(seconds=ago)
    return ProviderHealth.objects.create(
        provider=provider, status=status, checked_at=moment, changed_at=moment, **values
    )


def row_of(response, provider):
    page = response.content.decode()
    rows = [row.split("</tr>")[0] for row in page.split("<tr")[1:]]
    return next(row for row in rows if f">{provider.slug}</a>" in row)


def test_a_new_api_key_is_stored_encrypted_and_shown_masked_only(admin_client):
    assert admin_client.post(ADD, form(new_api_key=SECRET)).status_code == 302
    provider = Provider.objects.get()
    assert provider.api_key == SECRET
    assert SECRET not in provider.encrypted_api_key
    for page in (admin_client.get(change(provider)), admin_client.get(LIST)):
        assert "…tail" in page.content.decode()
        assert SECRET not in page.content.decode()
        assert provider.encrypted_api_key not in page.content.decode()


def test_no_history_entry_holds_the_api_key(admin_client):
    admin_client.post(ADD, form())
    provider = Provider.objects.get()
    admin_client.post(change(provider), form(new_api_key=SECRET, when_unhealthy="try"))
    messages = [entry.change_message for entry in LogEntry.objects.all()]
    assert len(messages) == 2
    assert SECRET not in "".join(messages)


def test_a_blank_new_api_key_keeps_the_stored_one(admin_client):
    provider = make_provider(slug="openai", api_key=SECRET, base_url="https://api.openai.com/v1")
    answer = admin_client.post(change(provider), form(name="Renamed", when_unhealthy="try"))
    assert answer.status_code == 302
    provider.refresh_from_db()
    assert (provider.name, provider.api_key) == ("Renamed", SECRET)


def test_the_checkbox_clears_the_stored_api_key(admin_client):
    provider = make_provider(slug="openai", api_key=SECRET)
    admin_client.post(change(provider), form(clear_api_key="on", when_unhealthy="try"))
    provider.refresh_from_db()
    assert provider.api_key == ""


def test_a_new_api_key_and_clearing_at_once_are_refused(admin_client):
    provider = make_provider(slug="openai", api_key=SECRET)
    values = form(new_api_key="other-key-0123456789", clear_api_key="on", when_unhealthy="try")
    found = errors(admin_client.post(change(provider), values))
    assert found["clear_api_key"] == ["Allowed is either a new API key or clearing the stored one."]
    provider.refresh_from_db()
    assert provider.api_key == SECRET


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_an_api_key_that_no_header_can_carry_is_refused(admin_client, key):
    found = errors(admin_client.post(ADD, form(new_api_key=key)))
    assert found["new_api_key"] == ["Allowed are printable ASCII characters without blanks."]


def test_a_refused_form_keeps_all_that_was_entered_except_the_secret(admin_client):
    entered = form(
        slug="Not A Slug",
        name="Kept name",
        new_api_key=SECRET,
        extra_headers='{"x-team": "search",}',
        read_timeout="77",
        health_path="/kept",
        api_version="kept-version",
    )
    answer = admin_client.post(ADD, entered)
    assert set(errors(answer)) == {"slug", "extra_headers"}
    page = answer.content.decode()
    for kept in (
        "Not A Slug",
        "Kept name",
        "77",
        "/kept",
        "kept-version",
        "{&quot;x-team&quot;: &quot;search&quot;,}",
    ):
        assert kept in page
    assert SECRET not in page


def test_a_zai_provider_starts_with_the_dialects_defaults(admin_client):
    admin_client.post(ADD, form(slug="z-ai", dialect="zai"))
    provider = Provider.objects.get()
    assert provider.api_version == "2024-01-01"
    assert provider.extra_headers == {"User-Agent": "ZAI-Gateway/1.0"}
    assert provider.when_unhealthy == "refuse"


def test_an_openai_provider_starts_with_its_own_defaults(admin_client):
    admin_client.post(ADD, form())
    provider = Provider.objects.get()
    assert (provider.api_version, provider.extra_headers, provider.when_unhealthy) == ("", {}, "try")


def test_what_was_entered_goes_before_the_dialects_defaults(admin_client):
    entered = form(
        dialect="zai", api_version="2025-05-05", extra_headers='{"x-a": "b"}', when_unhealthy="try"
    )
    admin_client.post(ADD, entered)
    provider = Provider.objects.get()
    assert (provider.api_version, provider.when_unhealthy) == ("2025-05-05", "try")
    assert provider.extra_headers == {"x-a": "b"}


def test_a_later_edit_may_blank_what_the_dialect_filled_in(admin_client):
    provider = make_provider(slug="z-ai", dialect="zai", api_version="2024-01-01", when_unhealthy="refuse")
    admin_client.post(change(provider), form(slug="z-ai", dialect="zai", when_unhealthy="refuse"))
    provider.refresh_from_db()
    assert (provider.api_version, provider.extra_headers) == ("", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a" "b"}', "Not valid JSON at line 1, column 6"),
        ('{"a": NaN}', "NaN is not a JSON value. Allowed is a JSON object"),
        ('["a"]', "Allowed is a JSON object"),
        ('{"a": 1}', "a: allowed is one line of printable ASCII text"),
        ('{"Authorization": "Bearer x"}', "Authorization is set by the gateway itself"),
    ],
)
def test_extra_headers_that_are_none_are_refused_with_what_is_allowed(admin_client, text, message):
    found = errors(admin_client.post(ADD, form(extra_headers=text)))
    assert message in found["extra_headers"][0]


def test_a_value_out_of_range_is_refused_with_the_range(admin_client):
    found = errors(admin_client.post(ADD, form(read_timeout="9999")))
    assert found["__all__"] == ["Read timeout: allowed are 0.1 to 3,600."]


def test_the_list_shows_what_the_last_probe_found(admin_client):
    healthy, unhealthy = make_provider(), make_provider()
    probed(healthy, latency_ms=182.4)
    probed(unhealthy, status="unhealthy", failures=3)
    page = admin_client.get(LIST)
    assert re.search(r"healthy.*182 ms, \d s ago", row_of(page, healthy), re.S)
    assert "unhealthy" in row_of(page, unhealthy)


def test_health_is_unknown_without_a_probe_in_three_intervals(admin_client):
    never, stale, fresh = (
        make_provider(),
        make_provider(health_interval=30),
        make_provider(health_interval=30),
    )
    probed(stale, ago=91)
    probed(fresh, ago=80)
    page = admin_client.get(LIST)
    assert "unknown" in row_of(page, never)
    assert "unknown" in row_of(page, stale)
    assert "unknown" not in row_of(page, fresh)


def test_the_change_page_shows_health_with_links_to_targets_and_log(admin_client):
    provider = make_provider(slug="vllm")
    probed(provider, status="unhealthy", latency_ms=12.5, failures=4, detail="connection refused")
    page = admin_client.get(change(provider)).content.decode()
    for shown in (
        "unhealthy",
        "12.5 ms",
        "connection refused",
        "Failures in a row",
        ">4<",
        "http://127.0.0.1:9/v1/models",
    ):
        assert shown in page
    targets = reverse("admin:routing_routetarget_changelist")
    assert f"{targets}?provider__id__exact={provider.pk}" in page
    assert f"{reverse('admin:monitoring_requestlog_changelist')}?provider=vllm" in page


def test_the_list_links_the_number_of_targets_to_them(admin_client):
    provider = make_provider()
    make_target(provider=provider)
    make_target(provider=provider)
    url = f"{reverse('admin:routing_routetarget_changelist')}?provider__id__exact={provider.pk}"
    row = row_of(admin_client.get(LIST), provider)
    assert re.search(rf'href="{re.escape(url)}"[^>]*>2</a>', row)
    assert admin_client.get(url).context["cl"].result_count == 2


def test_disabling_providers_is_published_and_counted(admin_client):
    providers = [make_provider() for _ in range(3)]
    before = RoutingVersion.objects.get().number
    answer = admin_client.post(
        LIST, {"action": "disable", "_selected_action": [row.pk for row in providers[:2]]}, follow=True
    )
    assert [str(message) for message in answer.context["messages"]] == ["2 providers disabled."]
    assert list(Provider.objects.enabled()) == providers[2:]
    assert RoutingVersion.objects.get().number > before
    admin_client.post(LIST, {"action": "enable", "_selected_action": [providers[0].pk]})
    assert Provider.objects.enabled().count() == 2


def test_an_action_is_in_the_history(admin_client):
    provider = make_provider()
    admin_client.post(LIST, {"action": "disable", "_selected_action": [provider.pk]})
    assert LogEntry.objects.get().get_change_message() == "Changed Enabled."


def test_the_list_is_searched_and_filtered(admin_client):
    make_provider(slug="alpha")
    make_provider(slug="beta", dialect="zai", enabled=False)
    for query in ("q=bet", "dialect__exact=zai", "enabled__exact=0"):
        found = admin_client.get(f"{LIST}?{query}").context["cl"].result_list
        assert [provider.slug for provider in found] == ["beta"]


def test_the_list_takes_the_same_queries_for_any_number_of_rows(admin_client, django_assert_num_queries):
    route = make_route()
    for _ in range(5):
        provider = make_provider(api_key=SECRET)
        probed(provider)
        make_target(route=route, provider=provider)
    admin_client.get(LIST)
    with django_assert_num_queries(8):  # session, user, two counts, rows; turns, hours, windows
        admin_client.get(LIST)
