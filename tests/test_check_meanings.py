"""What a check's answer says: a guess of ours takes no provider out, a refused account is no dead server."""

import json
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from monitoring.alerts.raising import evaluate
from monitoring.health.running import check_now
from monitoring.models import Alert, HealthCheck, Incident, RequestLog
from proxy.ids import uuid7
from routing.compiler import compile_table, current_version
from routing.models import Provider, ProviderHealth
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer

pytestmark = pytest.mark.django_db(transaction=True)
BAD, MISSING = Answer(status=500), Answer(status=404, body=b'{"detail":"Not Found"}')
MONEY = b'{"error":{"message":"Insufficient Balance","code":"invalid_request_error"}}'


@pytest.fixture
def watch(upstream):
    def make(**values):
        return make_provider(slug="p", base_url=upstream.url("p"), **{"api_key": "sk-up-0123456789"} | values)

    return make


def statuses(provider, upstream, *answers):
    found = []
    for answer in answers:
        for first_part_of_its_path in ("p", "v1", "mine"):
            upstream.always(first_part_of_its_path, answer)
        [(_, status)] = check_now([provider])
        found.append(status)
    return found


def answered(**values):
    """A caller's request that was answered by p just now."""
    given = {
        "id": uuid7(),
        "received_at": timezone.now() - timedelta(seconds=1),
        "outcome": "answered",
        "provider": "p",
        "request_id": "of-a-caller",
        "status": 200,
    }
    RequestLog.objects.create(**given | values)


def detail():
    return HealthCheck.objects.first().detail


@pytest.mark.parametrize("dialect", ["openai", "zai"])
@pytest.mark.parametrize("answer", [MISSING, Answer(status=405), Answer(status=404, body=b"<html>no</html>")])
def test_a_missing_default_path_is_no_check_and_takes_nothing_out(watch, upstream, dialect, answer):
    provider = watch(dialect=dialect, when_unhealthy="refuse")
    assert statuses(provider, upstream, answer, answer, answer) == ["unknown"] * 3
    assert detail() == f"status {answer.status}: the server lives, but its path is no check"
    assert not compile_table().providers["p"].unhealthy
    assert HealthCheck.objects.filter(ok=False).count() == 0
    assert not Incident.objects.exists()
    evaluate(timezone.now())
    assert not Alert.objects.exists()


def test_a_provider_that_was_down_lives_when_it_says_that_there_is_no_such_path(watch, upstream):
    provider = watch()
    assert statuses(provider, upstream, BAD, BAD, MISSING, BAD, BAD) == [
        "unknown",
        "unhealthy",
        "unknown",
        "unknown",
        "unhealthy",
    ]


def test_a_path_that_an_admin_has_set_is_a_check_and_its_404_a_failure(watch, upstream):
    provider = watch(health_path="status/of/mine")
    assert statuses(provider, upstream, MISSING, MISSING) == ["unknown", "unhealthy"]
    assert detail() == "status 404"


@pytest.mark.parametrize("values", [{"health_path": "status/of/mine"}, {"dialect": "zai"}])
def test_where_requests_succeed_a_missing_path_is_wrong_and_the_provider_is_not_down(watch, upstream, values):
    provider = watch(**values)
    answered()
    assert statuses(provider, upstream, MISSING, MISSING, MISSING) == ["unknown"] * 3
    assert detail().startswith("check path wrong: http://127.0.0.1:")
    assert detail().endswith(", while requests succeed")
    assert not compile_table().providers["p"].unhealthy


@pytest.mark.parametrize(
    "row",
    [
        {"provider": "another"},
        {"outcome": "upstream_failed"},
        {"received_at": timezone.now() - timedelta(hours=1)},
        {"request_id": "health-p-1"},
    ],
)
def test_other_rows_than_answers_to_callers_say_nothing_about_the_path(watch, upstream, row):
    provider = watch(health_path="status/of/mine")
    answered(**row)
    assert statuses(provider, upstream, MISSING, MISSING) == ["unknown", "unhealthy"]


def test_succeeding_requests_excuse_no_failure_of_the_server(watch, upstream):
    provider = watch()
    answered()
    assert statuses(provider, upstream, BAD, BAD) == ["unknown", "unhealthy"]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("values", [{}, {"health_model": "m"}, {"health_path": "/mine"}])
def test_a_refused_credential_is_degraded_with_an_alert_and_traffic_as_before(
    watch, upstream, status, values
):
    provider = watch(**values)
    refused = Answer(status=status, body=b'{"error":{"message":"Incorrect API key provided"}}')
    before = current_version()
    assert statuses(provider, upstream, refused, refused, refused) == ["degraded"] * 3
    assert detail() == f"status {status}: the provider refuses the gateway's credential"
    assert not compile_table().providers["p"].unhealthy
    assert current_version() == before
    evaluate(timezone.now())
    [alert] = Alert.objects.all()
    assert alert.subject == "p credential"
    assert "refuses the gateway's credential; requests go there as before" in alert.summary
    assert not Incident.objects.exists()
    evaluated_again()
    assert Alert.objects.filter(ended_at=None).count() == 1
    assert statuses(provider, upstream, Answer()) == ["healthy"]
    evaluated_again()
    assert Alert.objects.filter(ended_at=None).count() == 0


def evaluated_again():
    evaluate(timezone.now() + timedelta(minutes=1))
    from monitoring.models import AlertRule

    AlertRule.objects.update(evaluated_at=None)


def test_a_provider_for_callers_own_keys_only_is_not_blamed_for_refusing_a_check_without_one(watch, upstream):
    provider = watch(api_key="", allow_caller_key=True)
    assert statuses(provider, upstream, Answer(status=401)) == ["unknown"]
    assert detail() == "status 401: there is no stored API key to check with"


@pytest.mark.parametrize("values", [{}, {"health_model": "m"}])
def test_429_says_that_it_lives(watch, upstream, values):
    provider = watch(**values)
    busy = Answer(status=429, body=b'{"error":{"message":"slow down"}}', headers={"retry-after": "7"})
    assert statuses(provider, upstream, busy, busy) == ["healthy", "healthy"]
    assert detail() == "status 429: it is rate limited, and lives"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=402),
        Answer(status=403, body=MONEY),
        Answer(status=429, body=b'{"error":{"code":"insufficient_quota","message":"no quota"}}'),
    ],
)
@pytest.mark.parametrize("values", [{}, {"health_model": "m"}])
def test_an_unpaid_account_is_marked_told_and_no_failure_of_the_server(watch, upstream, answer, values):
    provider = watch(**values)
    assert statuses(provider, upstream, answer, answer, answer) == ["degraded"] * 3
    assert ProviderHealth.objects.get().mark == "unpaid"
    entry = compile_table().providers["p"]
    assert (entry.unhealthy, entry.unpaid) == (False, True)
    evaluate(timezone.now())
    assert "does not serve the gateway's account, which is unpaid" in Alert.objects.get().summary
    assert statuses(provider, upstream, Answer()) == ["healthy"]
    assert not compile_table().providers["p"].unpaid


def test_a_check_that_finds_the_account_unpaid_confirms_words_of_money_of_one_caller(
    door, upstream, published, logged
):
    money, good = Answer(status=403, body=MONEY), Answer()
    for slug in ("p", "other"):
        make_provider(
            slug=slug,
            base_url=upstream.url(slug),
            retries=0,
            api_key="sk-up-0123456789",
            health_interval=86400,
        )
    route = make_route(name="gpt")
    for priority, slug in enumerate(("p", "other")):
        make_target(route=route, provider=Provider.objects.get(slug=slug), priority=priority)
    _, key = make_key(name="app")
    published()
    upstream.always("p", money)
    upstream.always("other", good)
    for _ in range(5):
        assert door.chat(key).status_code == 200
    asked = len(upstream.calls("p"))
    assert asked == 5, "words of one caller open no circuit"
    [(_, status)] = check_now([Provider.objects.get(slug="p")])
    assert status == "degraded"
    published()
    for _ in range(5):
        assert door.chat(key).status_code == 200
    assert len(upstream.calls("p")) == asked + 3, "confirmed: three failures open it"


@pytest.mark.parametrize("status", [500, 502, 503, 529, 408, 421, 301])
def test_other_failures_need_two_in_a_row_by_default(watch, upstream, status):
    provider = watch()
    assert provider.health_threshold == 2
    answers = (Answer(), Answer(status=status), Answer(), Answer(status=status), Answer(status=status))
    assert statuses(provider, upstream, *answers) == ["healthy"] * 4 + ["unhealthy"]
    evaluate(timezone.now())
    assert Alert.objects.get().summary == f"Provider p is down: status {status}"


def test_requests_that_fail_degrade_a_provider_whose_path_is_no_check(own_log, watch, upstream):
    from monitoring.health import traffic

    provider = watch()
    statuses(provider, upstream, MISSING)
    trail = [{"target": 1, "provider": "p", "model": "m", "result": "upstream_error: failed", "ms": 1.0}]
    for number in range(5):
        answered(outcome="upstream_failed", request_id=f"r{number}", attempts=1, attempt_trail=trail)
    traffic.judge(timezone.now())
    assert ProviderHealth.objects.get().status == "degraded"
    assert statuses(provider, upstream, MISSING) == ["degraded"]


def test_a_check_of_a_row_that_cannot_be_read_fails_with_the_reason(watch, upstream):
    provider = watch()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE routing_provider SET extra_headers = %s", [json.dumps(["a"])])
    statuses(Provider.objects.get(pk=provider.pk), upstream, Answer())
    assert detail() == "What is stored can't be read (extra_headers): an admin must save it anew."


def test_the_history_shows_what_an_answer_meant(watch, upstream, admin_client):
    provider = watch()
    statuses(provider, upstream, MISSING)
    page = admin_client.get(f"/admin/routing/provider/{provider.pk}/health/").content.decode()
    assert "the server lives, but its path is no check" in page
