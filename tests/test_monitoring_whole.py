"""Monitoring through the whole of it: processes as users run them, an upstream that really fails."""

import asyncio
import hashlib
import hmac
import json
import os
import time
from datetime import datetime
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import plain
from tests.live import until
from tests.optional import needs
from tests.python_process import PythonProcess
from tests.served import Served
from tests.stack import AdminBrowser, Stack
from tests.upstream import Answer

INTERVAL, THRESHOLD, GRACE = 5, 2, 2.0
# Of the interval a tenth less is jitter; the first check of a process is late, as it loads certificates.
LEAST_GAP = 0.6 * INTERVAL
SECRET = "signing-secret"
ENV = {"ALERT_TICK_SECONDS": "1", "METRICS_TOKEN": "metrics", "MASTER_KEY": "sk-master-of-the-tests-0123"}

# The provider `bad` is asked for its health under another name, so that only its checks fail.
ROWS = """
from django.contrib.auth import get_user_model
from monitoring.models import AlertChannel
from routing.models import ApiKey, ModelRoute, Provider, RouteTarget
from routing.publishing import publish_change
admin, _ = get_user_model().objects.get_or_create(username="admin", is_staff=True, is_superuser=True)
admin.set_password("password-of-tests"); admin.save()
Provider.objects.all().update(health_check_enabled=False)
route = ModelRoute.objects.create(name="gpt", strategy="ordered")
for priority, slug in enumerate(("bad", "good")):
    provider = Provider.objects.create(
        slug=slug, name=slug, base_url=f"{url}/{{slug}}/v1", health_path=f"/{{slug}}-health/v1/models",
        health_interval={interval}, health_threshold={threshold}, health_recovery={threshold}, retries=0,
    )
    RouteTarget.objects.create(
        route=route, provider=provider, upstream_model="m", priority=priority, input_price=1, output_price=2
    )
for name in ("broken", "slow"):
    provider = Provider.objects.create(
        slug=name, name=name, base_url=f"{url}/{{name}}/v1", health_check_enabled=False, retries=0
    )
    route = ModelRoute.objects.create(name=name)
    RouteTarget.objects.create(route=route, provider=provider, upstream_model="m")
channel = AlertChannel(name="hook", kind="webhook")
channel.target, channel.secret = "{url}/hook", "{secret}"
channel.save()
publish_change()
"""


def rows(upstream):
    url = f"http://127.0.0.1:{upstream.port}"
    return ROWS.format(url=url, interval=INTERVAL, threshold=THRESHOLD, secret=SECRET)


@pytest.fixture
def embedded(migrated, upstream):
    """(base URL, the admin) of `make serve`: no Redis, all on one machine."""
    served = Served(migrated, **ENV).start()
    try:
        with PythonProcess(served.env) as python:
            python.run(rows(upstream))
        yield served.url, AdminBrowser(served.url, "password-of-tests")
    finally:
        served.kill()


@pytest.fixture
def stack(request, tmp_path, upstream):
    """Nothing runs yet but Redis and Postgres."""
    redis_server = request.getfixturevalue("redis_server")
    postgres_server = request.getfixturevalue("postgres_server")
    redis_server.client.flushall()
    for name in ("web",):
        (tmp_path / name).mkdir()
    env = ENV | {
        "REDIS_URL": redis_server.url,
        "DATABASE_URL": postgres_server.create_database(f"whole_{os.urandom(4).hex()}", migrated=True),
        "STALLED_SECONDS": "6",
    }
    found = Stack(tmp_path, env)
    found.python(rows(upstream))
    yield found
    found.stop()


@pytest.fixture
def apart(stack):
    """(base URL, the admin) with Redis, Postgres, worker and beat apart."""
    stack.start("web", "worker", "beat")
    return stack.web.url, AdminBrowser(stack.web.url, "password-of-tests")


@pytest.fixture(params=["embedded", pytest.param("apart", marks=[needs("Redis"), needs("Postgres")])])
def whole(request):
    return request.getfixturevalue(request.param)


def told(upstream, rule="provider_down", subject="bad"):
    """Events of one alert, each with a good signature."""
    found = []
    for seen in list(upstream.seen.get("hook", [])):
        signed = seen.headers["x-switchstand-timestamp"].encode() + b"." + seen.body
        wanted = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert seen.headers["x-switchstand-signature"] == f"sha256={wanted}"
        if (seen.json["rule"], seen.json["subject"]) == (rule, subject):
            found.append(seen.json["event"])
    return found


def chat(url):
    body = {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}
    auth = {"authorization": "Bearer sk-master-of-the-tests-0123"}
    answer = plain.post(f"{url}/v1/chat/completions", json=body, headers=auth, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-proxy-provider"]


def seconds_until(admin, wanted):
    started = time.monotonic()
    until(lambda: admin.health_of("bad") == wanted, f"bad is {wanted}", 60)
    return time.monotonic() - started


def test_a_failing_upstream_is_seen_left_told_of_and_taken_back(whole, upstream, record_property):
    url, admin = whole
    until(lambda: admin.health_of("bad") == "healthy" == admin.health_of("good"), "both are healthy", 30)
    until(lambda: chat(url) == "bad", "traffic goes to the first one")
    upstream.always("bad-health", Answer(status=503))
    seconds = seconds_until(admin, "unhealthy")
    record_property("unhealthy_after_s", round(seconds, 2))
    print(f"unhealthy in the admin after {seconds:.2f} s")
    assert seconds <= INTERVAL * THRESHOLD + GRACE
    until(lambda: chat(url) == "good", "traffic has left it", 2)
    assert {chat(url) for _ in range(5)} == {"good"}
    until(lambda: told(upstream) == ["fired"], lambda: str(told(upstream)), 15)
    upstream.always("bad-health", Answer())
    seconds = seconds_until(admin, "healthy")
    print(f"healthy again after {seconds:.2f} s")
    assert seconds <= INTERVAL * THRESHOLD + GRACE
    until(lambda: chat(url) == "bad", "traffic is back", 2)
    until(lambda: told(upstream) == ["fired", "resolved"], lambda: str(told(upstream)), 15)
    time.sleep(5)
    assert told(upstream) == ["fired", "resolved"], "exactly one of each"


def checks_of(stack, slug):
    """Moments of all checks, oldest first."""
    code = f"""
import json
from monitoring.models import HealthCheck
rows = HealthCheck.objects.filter(provider__slug="{slug}").order_by("at").values_list("at", flat=True)
print(json.dumps([row.isoformat() for row in rows]))
"""
    return [datetime.fromisoformat(text).timestamp() for text in json.loads(stack.python(code))]


@needs("Redis")
@needs("Postgres")
@pytest.mark.parametrize(("part", "component"), [("beat", "ticks"), ("worker", "worker")])
def test_a_killed_beat_or_worker_is_noticed_and_its_return_neither_doubles_nor_loses(
    apart, stack, upstream, part, component
):
    _, admin = apart

    def stalled():
        return stack.web.readiness()["stalled"]

    until(lambda: len(checks_of(stack, "good")) >= 2, "checks run", 30)
    until(lambda: stalled() == {}, "nothing is stalled")
    stack.kill(part)
    killed = time.time()
    until(lambda: component in stalled(), lambda: str(stalled()), 30)
    sentence = stalled()[component].rpartition(" for ")[0]
    assert sentence in admin.get("/admin/"), "the admin's first page says so"
    until(
        lambda: told(upstream, "stalled", component) == ["fired"], lambda: str(upstream.seen.get("hook")), 40
    )
    print(f"{part}: noticed and told after {time.time() - killed:.1f} s, with STALLED_SECONDS=6")
    down = time.time()
    stack.start_part(part)
    until(lambda: component not in stalled(), lambda: str(stalled()), 40)
    until(
        lambda: told(upstream, "stalled", component) == ["fired", "resolved"],
        lambda: str(told(upstream, "stalled", component)),
        40,
    )
    until(lambda: sum(moment > down for moment in checks_of(stack, "good")) >= 4, "checks go on", 60)
    moments = checks_of(stack, "good")
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert min(gaps) > LEAST_GAP, f"none is doubled: {gaps}"
    after = [moment for moment in moments if moment > down]
    assert all(b - a < 1.1 * INTERVAL + 2.5 for a, b in pairwise(after)), "none is lost"


@needs("Redis")
@needs("Postgres")
def test_of_two_beats_one_works_and_the_other_takes_over(stack, upstream):
    stack.start("web", "worker", "beat")
    until(lambda: stack.log("beat").exists() and stack.sent("beat") > 3, "the first one works", 30)
    stack.start_part("beat-2")
    time.sleep(8)
    assert stack.sent("beat-2") == 0
    before = stack.sent("beat")
    stack.kill("beat")
    killed = time.time()
    until(lambda: stack.sent("beat-2") > 3, lambda: stack.log("beat-2").read_text()[-500:], 40)
    print(f"the second beat took over after {time.time() - killed:.1f} s")
    stack.start_part("beat")
    time.sleep(5)
    assert stack.sent("beat") == before, "who comes back waits"
    moments = checks_of(stack, "good")
    assert min(b - a for a, b in pairwise(moments)) > LEAST_GAP


def test_of_two_beats_on_one_machine_one_works(tmp_path):
    """Without Redis: a lock on a file, free at once when its beat is killed."""
    code = """
import sys
from monitoring.background.locks import make_lock
lock = make_lock("beat")
print(lock.hold(), lock.hold(), flush=True)
sys.stdin.read()
"""
    import subprocess
    import sys

    from tests.live import ROOT

    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    env |= {"DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "gateway_project.settings"}
    whole = [sys.executable, "-c", f"import django; django.setup()\n{code}"]

    def start():
        process = subprocess.Popen(
            whole, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return process, process.stdout.readline().split()

    first, held = start()
    second, waits = start()
    first.kill()
    first.wait(10)
    third, taken = start()
    second.kill()
    third.kill()
    for process in (second, third):
        process.wait(10)
    assert (held, waits, taken) == (["True", "True"], ["False", "False"], ["True", "True"])


REQUESTS, CONNECTIONS = 10_000, 40


@needs("Redis")
@needs("Postgres")
def test_metrics_of_four_workers_are_the_journals_totals(stack, upstream):
    """10,000 requests of several kinds over four web processes; any of them answers for all."""
    stack.web.env["WEB_WORKERS"] = "4"
    upstream.always("broken", Answer(status=500))
    upstream.always("slow", Answer(delay=20))
    stack.start("web")
    until(lambda: chat(stack.web.url) == "bad", "it serves")
    started = time.monotonic()
    asyncio.run(_ask_often(stack.web.port))
    print(f"{REQUESTS:,} requests in {time.monotonic() - started:.1f} s")
    count = "from monitoring.models import RequestLog\nprint(RequestLog.objects.count())"
    until(lambda: int(stack.python(count)) >= REQUESTS + 1, "all are in the log", 60)
    totals = json.loads(stack.python(_TOTALS))
    found = until(
        lambda: (now := _metrics(stack.web.url))["requests"] == totals["requests"] and now,
        lambda: f"{_metrics(stack.web.url)} {totals}",
        10,
    )
    assert sum(totals["requests"].values()) >= REQUESTS
    assert len(totals["requests"]) >= 4, "of several kinds"
    assert found["tokens"] == totals["tokens"]
    assert found["cost"] == pytest.approx(totals["cost_nano"] / 1e9, rel=1e-9)
    assert found["workers"] == 4
    for _ in range(8):  # whichever of them answers
        assert _metrics(stack.web.url) == found


_TOTALS = """
import json
from django.db.models import Count, Sum
from monitoring.models import RequestLog
rows = RequestLog.objects.order_by().values_list("outcome", "status").annotate(n=Count("pk"))
counted = {}
for outcome, status, n in rows:
    name = f"{outcome} {'none' if status is None else str(status // 100) + 'xx'}"
    counted[name] = counted.get(name, 0) + n
sums = RequestLog.objects.aggregate(i=Sum("input_tokens"), o=Sum("output_tokens"), c=Sum("cost_nano_usd"))
print(json.dumps({"requests": counted, "tokens": [sums["i"], sums["o"]], "cost_nano": sums["c"]}))
"""


def _metrics(url):
    text = plain.get(f"{url}/metrics", headers={"authorization": "Bearer metrics"}, timeout=20).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def total(name):
        return sum(sample.value for sample in samples if sample.name == f"switchstand_{name}")

    requests = {}
    for sample in samples:
        if sample.name == "switchstand_requests_total":
            name = f"{sample.labels['outcome']} {sample.labels['status']}"
            requests[name] = requests.get(name, 0) + sample.value
    return {
        "requests": requests,
        "tokens": [total("input_tokens_total"), total("output_tokens_total")],
        "cost": total("cost_usd_total"),
        "workers": sum(sample.name == "switchstand_worker_table_version" for sample in samples),
    }


def _request(number):
    """Good ones, streams, unknown models, wrong keys, failing providers; 40 that hang up."""
    kind = number % 10
    model = {8: "nobody-knows-it", 5: "broken"}.get(kind, "gpt")
    model = "slow" if number % 250 == 1 else model
    body = {"model": model, "messages": [{"role": "user", "content": "x"}], "stream": kind in (6, 7)}
    content = json.dumps(body).encode()
    # Two: of more, a minute's rows would be a sample.
    key = "sk-wrong" if number % 5000 == 9 else "sk-master-of-the-tests-0123"
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


async def _ask_often(port):
    numbers = iter(range(REQUESTS))
    await asyncio.gather(*(_connection(port, numbers) for _ in range(CONNECTIONS)))


async def _connection(port, numbers):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in numbers:
        writer.write(_request(number))
        if number % 250 == 1:
            await asyncio.sleep(0.1)
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
    writer.close()
