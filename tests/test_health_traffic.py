"""Passive health: what live traffic says of providers joins what their checks say."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from monitoring.health import traffic
from monitoring.models import HealthTransition, RequestLog, TrafficFault
from routing.models import ProviderHealth
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import until
from tests.test_admin_providers import row_of
from tests.test_admin_request_log import make_row
from tests.test_health_checks import check
from tests.upstream import Answer

pytestmark = pytest.mark.django_db(transaction=True)


def entry(result, provider="p", model="m", target=1, ms=10.0):
    return {"target": target, "provider": provider, "model": model, "result": result, "at_ms": 0.0, "ms": ms}


def asked(*results, ago=5.0, **values):
    """One request with these attempts."""
    trail = [result if isinstance(result, dict) else entry(result) for result in results]
    at = timezone.now() - timedelta(seconds=ago)
    return make_row(received_at=at, attempts=len(trail), attempt_trail=trail, **values)


FAILED = "upstream_error: p failed with status 500."


@pytest.fixture
def provider(upstream):
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"))
    check(provider)
    return provider


def status():
    return ProviderHealth.objects.get().status


def test_a_provider_whose_requests_fail_is_degraded_with_evidence(provider):
    for number in range(6):
        asked(FAILED, request_id=f"bad-{number}")
    for number in range(4):
        asked("200", request_id=f"good-{number}")
    traffic.judge(timezone.now())
    assert status() == "degraded"
    turn = HealthTransition.objects.latest("at")
    assert (turn.before, turn.after) == ("healthy", "degraded")
    assert turn.reason == f"6 of 10 requests to m failed in a minute, the last one: {FAILED}"
    [target] = turn.evidence["targets"]
    assert (target["attempts"], target["failures"], target["mean_ms"]) == (10, 6, 10.0)
    assert len(target["request_ids"]) == 5
    assert all(request_id.startswith("bad-") for request_id in target["request_ids"])


def test_a_good_check_does_not_hide_failing_requests(provider):
    for _ in range(6):
        asked(FAILED)
    traffic.judge(timezone.now())
    assert check(provider) == "degraded"
    assert HealthTransition.objects.count() == 2, "the same status is no turn"
    RequestLog.objects.all().delete()
    for _ in range(6):
        asked("200")
    traffic.judge(timezone.now())
    assert not TrafficFault.objects.exists()
    assert check(provider) == "healthy"
    assert [turn.after for turn in HealthTransition.objects.order_by("at")] == [
        "healthy",
        "degraded",
        "healthy",
    ]


def test_failing_checks_count_more(provider, upstream):
    for _ in range(6):
        asked(FAILED)
    traffic.judge(timezone.now())
    upstream.always("p", Answer(status=500))
    assert check(provider) == "unhealthy"
    upstream.always("p", Answer())
    assert check(provider) == "degraded"
    assert "requests to m failed" in HealthTransition.objects.latest("at").reason


def test_one_failing_target_of_two_is_enough(provider):
    for _ in range(20):
        asked("200")
    for _ in range(5):
        asked(entry(FAILED, model="other", target=2))
    traffic.judge(timezone.now())
    assert status() == "degraded"
    assert "5 of 5 requests to other" in HealthTransition.objects.latest("at").reason


def test_a_retry_that_helped_is_a_failure_all_the_same(provider):
    for _ in range(5):
        asked(FAILED, "200")
    traffic.judge(timezone.now())
    assert status() == "degraded"


@pytest.mark.parametrize(
    "result",
    [
        "200",
        "context_length_exceeded: too long",
        "invalid_value: the caller's fault",
        "cancelled",
        "skipped: its circuit is open",
        "not needed",
    ],
)
def test_what_is_nobodys_fault_counts_neither_way(provider, result):
    for _ in range(30):
        asked(result)
    traffic.judge(timezone.now())
    assert status() == "healthy"


@pytest.mark.parametrize(
    "result",
    ["upstream_timeout: late", "upstream_rate_limited: busy", "upstream_auth_failed: key", "200, then: cut"],
)
def test_faults_of_all_kinds_count(provider, result):
    for _ in range(5):
        asked(result)
    traffic.judge(timezone.now())
    assert status() == "degraded"


def test_few_or_old_failures_say_nothing(provider):
    for _ in range(4):
        asked(FAILED)
    for _ in range(50):
        asked(FAILED, ago=61)
    traffic.judge(timezone.now())
    assert status() == "healthy"


def test_silence_is_no_recovery_for_a_while(provider):
    """An open circuit keeps requests away, which must not look like health."""
    for _ in range(6):
        asked(FAILED)
    now = timezone.now()
    traffic.judge(now)
    traffic.judge(now + timedelta(minutes=5))
    assert TrafficFault.objects.exists()
    traffic.judge(now + timedelta(minutes=11))
    assert not TrafficFault.objects.exists()


def test_through_the_gateway(live, published, upstream):
    """Checks are well, completions fail: the log's rows are enough to see it."""
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"), retries=0)
    make_target(route=make_route(name="gpt"), provider=provider, upstream_model="m")
    _, key = make_key()
    published()
    assert check(provider) == "healthy"
    upstream.always("p", Answer(status=500))

    ids = []
    for _ in range(6):
        body = {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}
        auth = {"authorization": f"Bearer {key}"}
        ids.append(
            plain.post(f"{live.url}/v1/chat/completions", json=body, headers=auth).headers["x-request-id"]
        )
    until(lambda: RequestLog.objects.count() >= 6, "the rows are there")
    traffic.judge(timezone.now())
    assert status() == "degraded"
    assert set(HealthTransition.objects.latest("at").evidence["targets"][0]["request_ids"]) <= set(ids)


def test_the_history_page_shows_traffic_and_evidence(provider, admin_client):
    for number in range(6):
        asked(FAILED, request_id=f"bad-{number}")
    traffic.judge(timezone.now())
    page = admin_client.get(reverse("admin:routing_provider_health", args=[provider.pk])).content.decode()
    assert "6 of 6 requests to m failed in a minute" in page
    assert "m: 6 of 6, 10 ms" in page
    assert page.count("?q=bad-") == 10, "five samples in the evidence, five in the live table"


def test_the_list_shows_open_circuits(admin_client, live, published, upstream, settings):
    provider = make_provider(health_threshold=1, slug="p", base_url=upstream.url("p"), retries=0)
    target = make_target(route=make_route(name="gpt"), provider=provider, upstream_model="m")
    page = reverse("admin:routing_provider_changelist")
    assert "m: open" not in row_of(admin_client.get(page), provider)
    from monitoring.health import summary
    from proxy.breaker.exchange import TargetView

    views = {target.pk: TargetView(target=target.pk, standing="open", why="3 failures in a row")}
    original, summary.target_views = summary.target_views, lambda: views
    try:
        row = row_of(admin_client.get(page), provider)
    finally:
        summary.target_views = original
    assert "m: open" in row
    assert "3 failures in a row" in row
