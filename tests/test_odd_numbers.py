"""Numbers and depths from outside, with real Redis and all limits: each is bounded where it is read.

None is a fault of the gateway's own: not in its answers, rows, metrics, reports or alerts.
"""

import datetime

import pytest

from monitoring.alerts import rules
from monitoring.models import AlertRule, RequestLog
from monitoring.usage.report import Question, total
from monitoring.usage.rollups import roll_up
from routing.compiler import current_version
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, until
from tests.optional import needs
from tests.test_limits_live import start_gateway
from tests.upstream import Answer, completion

pytestmark = [needs("Redis"), pytest.mark.django_db(transaction=True)]

BEGINNING = b'{"model":"gpt","messages":[{"role":"user","content":"hi"}],'
REFUSED = (  # each 400
    '"x":' + "[" * 1000 + "]" * 1000,
    '"max_tokens":1e23',
    '"max_tokens":100000000000000000000000',
    '"max_tokens":9223372036854775807',
    '"max_tokens":-1e400',
    '"max_completion_tokens":1e3000',
    '"n":4611686018427387904',
    '"n":-4611686018427387904',
    '"n":9223372036854775807,"max_tokens":9223372036854775807',
    '"n":1e300',
    '"n":1.5',
)
COUNTED = (  # what limits can count, and these refuse
    '"max_tokens":9007199254740991',
    '"n":9007199254740991,"max_tokens":9007199254740991',
    '"n":128,"max_tokens":1e15',
)
HEADERS = (  # each 400
    {"x-litellm-timeout": "1e400"},
    {"x-litellm-timeout": "9" * 400},
    {"x-litellm-timeout": "nan"},
    {"x-litellm-num-retries": "9" * 30},
    {"x-litellm-num-retries": "9" * 5000},
)
USAGES = (  # of a provider; what can't be counted is estimated
    {"prompt_tokens": 10**23, "completion_tokens": 1},
    {"prompt_tokens": 2**63 - 1, "completion_tokens": 2**63 - 1},
    {"prompt_tokens": 1e300, "completion_tokens": 1},
    {"prompt_tokens": 5, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2**63}},
    {"prompt_tokens": -(2**62), "completion_tokens": 1},
)


@pytest.fixture(scope="module")
def gateway(redis_server, django_db_setup):
    redis_server.client.flushall()
    started = start_gateway(redis_server)
    yield started
    started.stop()


@pytest.fixture
def key(gateway, upstream):
    provider = make_provider(slug="p", base_url=upstream.url("p"))
    make_target(route=make_route(name="gpt"), provider=provider, input_price=1, output_price=2)
    _, plaintext = make_key(name="app", rpm=10**6, tpm=10**9, parallel=1000, budget_usd=1000)
    gateway.wait_for_version(current_version())
    return plaintext


def sent(door, key, extra="", headers=None):
    end = extra.encode() + b"}" if extra else b'"n":1}'
    return door.chat(key, content=BEGINNING + end, headers=headers)


@pytest.mark.parametrize("kind", ["fast_lane", "drf"])
def test_no_number_and_no_depth_is_a_fault_of_the_gateway(gateway, upstream, key, kind, own_log):
    door = Door(kind, gateway.url)
    for extra in REFUSED:
        answer = sent(door, key, extra)
        assert (answer.status_code, answer.json()["error"]["gateway_code"]) == (400, "VALIDATION_ERROR"), (
            extra
        )
    for extra in COUNTED:
        answer = sent(door, key, extra)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded"), extra
    for headers in HEADERS:
        answer = sent(door, key, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), headers
    assert upstream.calls("p") == []
    for usage in USAGES:
        upstream.script("p", Answer(body=completion(usage=usage)))
        assert sent(door, key).status_code == 200, usage
    assert sent(door, key, '"max_tokens":100').status_code == 200, "the counts of Redis are still whole"
    calls = len(REFUSED) + len(COUNTED) + len(HEADERS) + len(USAGES) + 1
    until(lambda: RequestLog.objects.count() == calls, "all rows are written")
    told_nowhere_as_a_fault(gateway, calls)


def told_nowhere_as_a_fault(gateway, calls):
    outcomes = set(RequestLog.objects.values_list("outcome", flat=True))
    assert outcomes == {"refused", "answered"}
    assert not RequestLog.objects.filter(status__gte=500).exists()
    assert not RequestLog.objects.filter(cost_nano_usd__gt=10**9).exists()
    roll_up()
    today = datetime.datetime.now(datetime.UTC).date()
    line = total(Question("day", today - datetime.timedelta(days=1), today, {}))
    assert (line.requests, line.errors) == (calls, 0)
    rule = AlertRule(kind="error_rate", threshold=0.1)
    assert list(rules.error_rate(datetime.datetime.now(datetime.UTC), rule)) == []
    metrics = plain.get(f"{gateway.url}/metrics", headers=gateway.token).text
    assert 'outcome="refused"' in metrics
    assert 'outcome="failed"' not in metrics
    assert "Traceback" not in gateway.log.read_text()
