"""Health checks against a real provider: when they run, what they ask, what they make of it."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.utils import timezone

from monitoring.health import history
from monitoring.health.probe import Result
from monitoring.health.recording import record
from monitoring.health.running import check_now, prober, tick
from monitoring.health.schedule import AT_ONCE, claim_due, watched
from monitoring.models import CheckSchedule, HealthCheck, HealthTransition, RequestLog
from routing.compiler import compile_table, current_version
from routing.models import Provider, ProviderHealth
from tests.factories import make_provider, make_route, make_target
from tests.live import until
from tests.upstream import Answer

TICK = timedelta(seconds=2)
pytestmark = pytest.mark.django_db(transaction=True)
BAD = Answer(status=500)


@pytest.fixture
def watch(upstream):
    """Makes a provider of the scripted upstream; `check` asks it and returns its status."""

    def make(**values):
        return make_provider(slug="p", base_url=upstream.url("p"), **{"health_threshold": 1} | values)

    return make


def check(provider) -> str:
    [(_, status)] = check_now([provider])
    return status


def statuses(provider, upstream, *answers):
    found = []
    for answer in answers:
        upstream.always("p", answer)
        found.append(check(provider))
    return found


def test_thresholds_hold_in_both_directions(watch, upstream):
    provider = watch(health_threshold=2, health_recovery=3)
    good = Answer()
    answers = (good, BAD, good, BAD, BAD, good, good, BAD, good, good, good)
    assert statuses(provider, upstream, *answers) == [
        "healthy",
        "healthy",
        "healthy",
        "healthy",
        "unhealthy",
        "unhealthy",
        "unhealthy",
        "unhealthy",
        "unhealthy",
        "unhealthy",
        "healthy",
    ]


def test_a_provider_that_never_answered_is_unknown_until_its_threshold(watch, upstream):
    provider = watch(health_threshold=2)
    assert statuses(provider, upstream, BAD, BAD) == ["unknown", "unhealthy"]


def test_a_slow_provider_is_degraded_and_still_served(watch, upstream):
    provider = watch(health_slow_ms=100)
    slow = Answer(delay=0.2)
    assert statuses(provider, upstream, Answer(), slow, Answer()) == ["healthy", "degraded", "healthy"]
    statuses(provider, upstream, slow)
    assert not compile_table().providers["p"].unhealthy


def test_only_what_changes_the_table_is_published(watch, upstream):
    provider = watch(health_slow_ms=100)
    versions = []
    for answer in (Answer(), Answer(delay=0.2), Answer(), BAD, BAD, Answer()):
        before = current_version()
        statuses(provider, upstream, answer)
        versions.append(current_version() != before)
    assert versions == [False, False, False, True, False, True]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (Answer(status=501), "status 501"),
        (Answer(delay=3), "no answer within 0.3 s"),
        (Answer(cut="before_headers"), "RemoteProtocolError: connection failed"),
    ],
)
def test_the_history_says_what_went_wrong(watch, upstream, answer, detail):
    provider = watch(health_timeout=0.3)
    assert statuses(provider, upstream, answer) == ["unhealthy"]
    row = HealthCheck.objects.get()
    assert (row.provider, row.ok, row.status, row.detail) == (provider, False, "unhealthy", detail)
    assert 0 < row.latency_ms < 2000


def test_a_transition_keeps_its_reason_and_evidence(watch, upstream):
    provider = watch(health_threshold=2)
    statuses(provider, upstream, Answer(), BAD, BAD, Answer())
    rows = list(HealthTransition.objects.order_by("at"))
    assert [(row.before, row.after) for row in rows] == [
        ("unknown", "healthy"),
        ("healthy", "unhealthy"),
        ("unhealthy", "healthy"),
    ]
    assert rows[1].reason == "2 failed checks in a row, the last one: status 500"
    assert rows[1].evidence["failures"] == 2
    assert rows[1].evidence["detail"] == "status 500"
    assert rows[1].evidence["latency_ms"] > 0
    assert rows[2].reason.startswith("1 good checks in a row")


def test_a_completion_is_bought_only_where_a_model_is_chosen(own_log, watch, upstream):
    provider = watch()
    target = make_target(
        provider=provider, route=make_route(), upstream_model="m", input_price=1000, output_price=2000
    )
    assert check(provider) == "healthy"
    assert upstream.calls("p") == []
    Provider.objects.filter(pk=provider.pk).update(health_model="m")
    assert check(provider) == "healthy"
    [call] = upstream.calls("p")
    assert call.path.endswith("/chat/completions")
    assert (call.json["model"], call.json["max_tokens"]) == ("m", 1)
    row = RequestLog.objects.get()
    assert (row.key_name, row.provider, row.upstream_model, row.target_id) == (
        "health check",
        "p",
        "m",
        target.pk,
    )
    assert (row.outcome, row.status, row.input_tokens, row.output_tokens) == ("answered", 200, 24, 48)
    assert row.cost_usd == Decimal(24 * 1000 + 48 * 2000) / 10**6
    assert HealthCheck.objects.filter(kind="completion").count() == 1


@pytest.mark.parametrize(
    ("answer", "detail"),
    [(BAD, "status 500"), (Answer(body=b"no json"), "answered 200 with malformed JSON")],
)
def test_a_completion_that_fails_is_a_failed_check(own_log, watch, upstream, answer, detail):
    provider = watch(health_model="m")
    assert statuses(provider, upstream, answer) == ["unhealthy"]
    assert HealthCheck.objects.get().detail == detail
    assert (RequestLog.objects.get().outcome, RequestLog.objects.get().cost_usd) == ("upstream_failed", None)


def test_disabled_providers_and_switched_off_checks_are_not_asked(upstream):
    make_provider(slug="off", base_url=upstream.url("off"), enabled=False)
    make_provider(slug="silent", base_url=upstream.url("silent"), health_check_enabled=False)
    assert watched() == []
    assert tick(timezone.now(), TICK) == 0


def test_a_check_is_claimed_by_one_of_many_probers():
    providers = [make_provider() for _ in range(8)]
    now, start = timezone.now(), threading.Barrier(4)

    def claim() -> list[int]:
        start.wait(10)
        try:
            return [claim.provider.pk for claim in claim_due(now, TICK)]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        claimed = [pk for found in pool.map(lambda _: claim(), range(4)) for pk in found]
    assert Counter(claimed) == {provider.pk: 1 for provider in providers}


def test_an_edited_interval_counts_at_once():
    provider = make_provider(health_interval=86400)
    now = timezone.now()
    assert len(claim_due(now, TICK)) == 1
    later = now + timedelta(seconds=20)
    assert claim_due(later, TICK) == []
    Provider.objects.filter(pk=provider.pk).update(health_interval=10)
    [claim] = claim_due(later, TICK)
    assert claim.at == later


def test_checks_drift_apart():
    for _ in range(AT_ONCE + 20):
        make_provider(health_interval=100)
    now = timezone.now()
    first: dict[int, timedelta] = {}
    for second in range(0, 110, 2):
        for claim in claim_due(now + timedelta(seconds=second), TICK):
            first.setdefault(claim.provider.pk, claim.at - now)
    assert len(first) == AT_ONCE + 20
    assert max(Counter(delay.total_seconds() // 10 for delay in first.values()).values()) < 12, (
        "spread over 100 s"
    )
    factors = set(CheckSchedule.objects.values_list("factor", flat=True))
    assert len(factors) == AT_ONCE + 20
    assert all(0.9 <= factor <= 1.1 for factor in factors)


BUSY_SECONDS = 3.0
"""On a machine that runs other tests beside; who waited for a provider would wait for 60."""


def test_hanging_providers_delay_no_other(upstream):
    """200 providers of which 20 hang, for five ticks of two seconds."""
    first = make_provider(slug="first", base_url=upstream.url("first"))
    for future in prober().submit(claim_due(timezone.now(), TICK)):
        future.result(20)  # a process's first check loads certificates
    first.delete()
    upstream.clear()
    for number in range(200):
        slug = f"hang-{number}" if number < 20 else f"good-{number}"
        make_provider(slug=slug, base_url=upstream.url(slug), health_interval=5, health_timeout=60)
        if number < 20:
            upstream.always(slug, Answer(delay=60))
    offset = time.time() - time.monotonic()
    due: dict[str, list[float]] = {}
    futures = []
    began = time.monotonic()
    for number in range(5):
        time.sleep(max(0.0, began + 2 * number - time.monotonic()))
        claims = claim_due(timezone.now(), TICK)
        futures += prober().submit(claims)
        assert time.monotonic() - began - 2 * number < BUSY_SECONDS, "a tick waits for no provider"
        for claim in claims:
            due.setdefault(claim.provider.slug, []).append(claim.at.timestamp() - offset)
    checks = sum(map(len, due.values()))
    until(lambda: sum(map(len, upstream.seen.values())) >= checks, "all checks have arrived")
    late = sorted(
        seen.at - moment
        for slug, moments in due.items()
        for seen, moment in zip(upstream.seen[slug], moments, strict=False)
    )
    assert checks > 250
    assert len(late) == checks
    p50, p99 = late[checks // 2], late[int(0.99 * checks)]
    print(f"{checks} checks of 200 providers, 20 hang: late by {p50:.3f} s (p50), {p99:.3f} s (p99)")
    assert p99 < BUSY_SECONDS
    good = checks - sum(len(moments) for slug, moments in due.items() if slug.startswith("hang"))
    until(lambda: HealthCheck.objects.count() >= good, "all good ones are recorded", 20)
    assert not HealthCheck.objects.filter(ok=False).exists()
    for future in futures:  # those that hang
        future.cancel()


def test_a_slow_result_does_not_overtake_a_later_one(watch):
    provider, now = watch(), timezone.now()
    assert record(Result(provider, now, "get", 5.0)) == "healthy"
    assert record(Result(provider, now - timedelta(seconds=9), "get", 9000.0, "no answer")) == "healthy"
    assert ProviderHealth.objects.get().failures == 0
    assert HealthCheck.objects.count() == 2


def test_a_provider_deleted_while_it_is_checked_leaves_nothing(watch):
    provider = watch()
    stale = Provider.objects.get(pk=provider.pk)
    provider.delete()
    assert record(Result(stale, timezone.now(), "get", 5.0)) == ""
    assert not HealthCheck.objects.exists()


def test_old_history_is_pruned(watch, settings):
    provider, now = watch(), timezone.now()
    settings.HEALTH_HISTORY_DAYS = 7
    for days in (1, 6.9, 7.1, 100):
        record(Result(provider, now - timedelta(days=days), "get", 5.0))
    assert history.prune(now) == 2
    assert {(now - row.at).days for row in HealthCheck.objects.all()} == {1, 6}


def test_the_last_change_of_a_status_is_kept_however_old(watch):
    provider, now = watch(), timezone.now()
    for days, before, after in ((900, "unknown", "healthy"), (800, "healthy", "unhealthy")):
        at = now - timedelta(days=days)
        HealthTransition.objects.create(provider=provider, at=at, before=before, after=after, reason="r")
    assert history.prune(now) == 1
    assert [row.after for row in HealthTransition.objects.all()] == ["unhealthy"]
    assert history.uptimes([provider.pk], now, [30]) == {provider.pk: {30: 0.0}}


def test_uptime_is_the_share_of_known_time_not_unhealthy():
    provider, other, now = make_provider(), make_provider(), timezone.now()
    turns = ((50, "unknown", "healthy"), (12, "healthy", "unhealthy"), (6, "unhealthy", "degraded"))
    for hours, before, after in turns:
        HealthTransition.objects.create(
            provider=provider, at=now - timedelta(hours=hours), before=before, after=after, reason="r"
        )
    ids = [provider.pk, other.pk]
    assert history.uptimes(ids, now, [1, 7]) == {
        provider.pk: {1: pytest.approx(100 * 18 / 24), 7: pytest.approx(100 * 44 / 50)}
    }
