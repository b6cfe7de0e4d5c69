"""What /metrics says after real traffic, for all web processes together, living and ended."""

import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import docs
from monitoring.metrics.catalogue import METRICS
from proxy.metrics import counters
from proxy.metrics.store import Store, WorkerReport
from routing.compiler import current_version
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ROOT, Door, LiveGateway, until
from tests.optional import needs
from tests.upstream import Answer, events

TOKEN = "metrics-token-1"


class Metrics:
    """One scrape, as Prometheus' own parser reads it."""

    def __init__(self, live: LiveGateway, token: str = TOKEN) -> None:
        answer = plain.get(f"{live.url}/metrics", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        self.text = answer.text
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def sum(self, name: str, **labels: str) -> float:
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"switchstand_{name}" and labels.items() <= sample.labels.items()
        )


ENV = {
    "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
    "METRICS_TOKEN": TOKEN,
    "MASTER_KEY": "sk-master-of-the-tests-0123",
}


@pytest.fixture
def metered(tmp_path: Path, transactional_db: None) -> Iterator[LiveGateway]:
    """Has counted nothing yet."""
    live = LiveGateway(tmp_path, ENV).start()
    yield live
    live.stop()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, django_db_setup: None) -> Iterator[LiveGateway]:
    live = LiveGateway(tmp_path_factory.mktemp("guarded"), ENV).start()
    yield live
    live.stop()


@pytest.fixture
def routed(metered, upstream):
    """(the gateway, a key): the route gpt goes to the provider `bad`, then to `good`."""
    route = make_route(name="gpt", strategy="ordered")
    for priority, slug in enumerate(("bad", "good")):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=1, retry_delay=0)
        make_target(
            route=route,
            provider=provider,
            upstream_model="gpt-4o-mini",
            priority=priority,
            input_price="1",
            output_price="2",
        )
    _, key = make_key()
    metered.wait_for_version(current_version())
    return metered, key


def test_counts_what_really_happened(routed, upstream):
    live, key = routed
    door = Door("fast_lane", live.url)
    upstream.always("bad", Answer(status=500))
    assert door.chat(key).status_code == 200
    with door.stream(key) as answer:
        answer.read()
    assert door.chat(key, "unknown-model-of-a-caller").status_code == 404
    assert door.chat("sk-wrong").status_code == 401
    found = Metrics(live)
    assert found.sum("requests_total", route="gpt", provider="good", outcome="answered", status="2xx") == 2
    assert found.sum("requests_total", route="other", provider="none", outcome="refused", status="4xx") == 2
    assert found.sum("requests_total") == 4
    assert found.sum("refusals_total", code="model_not_found") == 1
    assert found.sum("refusals_total", code="invalid_api_key") == 1
    failed = found.sum("attempts_total", provider="bad", result="failed")
    assert failed >= 2
    assert found.sum("attempts_total", provider="good", result="answered") == 2
    assert found.sum("retries_total") == failed - found.sum("fallbacks_total")
    assert found.sum("fallbacks_total") in (1, 2)
    assert found.sum("request_duration_seconds_count", route="gpt", provider="good") == 2
    assert found.sum("request_duration_seconds_bucket", le="+Inf") == 2
    assert found.sum("overhead_seconds_count") == 2
    assert found.sum("time_to_first_token_seconds_count", provider="good") == 1
    assert found.sum("pool_size", provider="good") == 4096
    assert found.sum("in_flight") == 0
    assert "unknown-model-of-a-caller" not in found.text


def test_tokens_and_cost_are_those_of_the_request_log(routed, logged_by):
    live, key = routed
    door = Door("fast_lane", live.url)
    rows = [logged_by(door.chat(key)) for _ in range(3)]
    found = Metrics(live)
    assert found.sum("input_tokens_total", route="gpt") == sum(row.input_tokens for row in rows) > 0
    assert found.sum("output_tokens_total", route="gpt") == sum(row.output_tokens for row in rows) > 0
    assert found.sum("cost_usd_total") == pytest.approx(float(sum(row.cost_usd for row in rows)), rel=1e-12)
    assert found.sum("cost_usd_total") > 0
    assert found.sum("unpriced_requests_total") == 0


@pytest.fixture
def logged_by():
    def find(response):
        from monitoring.models import RequestLog

        wanted = response.headers["x-litellm-call-id"]
        return until(lambda: RequestLog.objects.filter(id=wanted).first(), f"the row of call {wanted}")

    return find


def test_a_limit_that_refuses_is_counted_by_its_code(routed):
    live, _ = routed
    _, limited = make_key(rpm=1)
    live.wait_for_version(current_version())
    door = Door("fast_lane", live.url)
    assert [door.chat(limited).status_code for _ in range(3)] == [200, 429, 429]
    assert Metrics(live).sum("refusals_total", route="gpt", code="rate_limit_exceeded") == 2


def test_what_runs_now_is_in_flight_and_uses_the_pool(routed, upstream):
    live, key = routed
    gate = threading.Event()
    upstream.always("bad", Answer(chunks=events("a", "b"), gate=gate))
    with Door("fast_lane", live.url).stream(key) as answer:
        chunks = answer.iter_raw()  # let go, it would close the connection
        next(chunks)
        during = Metrics(live)
        gate.set()
        assert during.sum("in_flight", provider="bad", route="gpt") == 1
        assert during.sum("pool_in_use", provider="bad") == 1
    until(lambda: Metrics(live).sum("pool_in_use") == 0, "the pool is free")
    assert Metrics(live).sum("in_flight") == 0


def test_an_open_circuit_shows(routed, upstream):
    live, key = routed
    upstream.always("bad", Answer(status=500))
    door = Door("fast_lane", live.url)
    assert Metrics(live).sum("target_state", provider="bad", state="closed") == 1
    for _ in range(3):
        door.chat(key)
    found = Metrics(live)
    assert found.sum("target_state", provider="bad", state="open") == 1
    assert found.sum("target_state", provider="bad", state="closed") == 0
    assert found.sum("target_state", provider="good", state="closed") == 1


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_counts_of_ended_processes_stay(routed, sign):
    live, key = routed
    for _ in range(3):
        assert Door("fast_lane", live.url).chat(key).status_code == 200
    if sign is signal.SIGKILL:  # which takes what was counted since the last post
        until(lambda: _posted(live, 3), "the counts are posted")
    for _ in range(2):
        live.stop(sign)
        live.start()
        assert Metrics(live).sum("requests_total") == 3
    assert Door("fast_lane", live.url).chat(key).status_code == 200
    found = Metrics(live)
    assert found.sum("requests_total") == 4
    assert len(found.families["switchstand_worker_start_time_seconds"].samples) == 1


def _posted(live: LiveGateway, requests: int) -> bool:
    living, _ = Store(live.data_dir / "metrics").read()
    return [count for report in living for _, [count] in report.families["requests"]] == [requests]


@needs("Redis")
def test_any_worker_answers_for_all(tmp_path, redis_server, upstream, transactional_db):
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "METRICS_TOKEN": TOKEN,
        "REDIS_URL": redis_server.url,
        "WEB_WORKERS": "2",
    }
    live = LiveGateway(tmp_path, env).start()
    try:
        make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("p1")))
        _, key = make_key()
        version = current_version()
        until(lambda: _versions(live) == [version] * 2, lambda: f"{version} in {_versions(live)}")
        for _ in range(20):
            assert Door("fast_lane", live.url).chat(key).status_code == 200
        until(
            lambda: [Metrics(live).sum("requests_total") for _ in range(6)] == [20.0] * 6,
            "every worker knows of all requests",
        )
    finally:
        live.stop()


def _versions(live: LiveGateway) -> list[float]:
    family = Metrics(live).families["switchstand_worker_table_version"]
    return [sample.value for sample in family.samples]


def test_journal_that_is_not_shipped_shows(routed, logged_by):
    live, key = routed
    logged_by(Door("fast_lane", live.url).chat(key))
    until(lambda: Metrics(live).sum("journal_backlog_bytes") == 0, "all is shipped")
    assert Metrics(live).sum("journal_shipper_age_seconds") < 5
    left = live.data_dir / "journal" / "0123.00000000.journal"
    left.write_bytes(b"x" * 1000)  # no whole line: nothing that could be shipped
    assert Metrics(live).sum("journal_backlog_bytes") >= 1000


def test_workers_tell_their_table(guarded, transactional_db):
    make_provider()
    until(lambda: _versions(guarded) == [current_version()], "the version is served")
    assert Metrics(guarded).sum("worker_table_age_seconds") < 3


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN])
def test_only_who_has_the_token_may_read(guarded, header):
    answer = plain.get(f"{guarded.url}/metrics", headers={"authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


def test_the_master_key_may_read_and_other_keys_may_not(guarded, transactional_db):
    _, key = make_key()
    guarded.wait_for_version(current_version())
    assert Metrics(guarded, "sk-master-of-the-tests-0123").sum("worker_start_time_seconds") > 0
    assert plain.get(f"{guarded.url}/metrics", headers={"authorization": f"Bearer {key}"}).status_code == 401


def test_nobody_may_read_where_nothing_is_set(live):
    for header in ("Bearer", "Bearer None"):
        assert plain.get(f"{live.url}/metrics", headers={"authorization": header}).status_code == 401


def test_every_metric_is_in_the_answer_and_described(routed, upstream):
    live, key = routed
    Door("fast_lane", live.url).chat(key)
    text = Metrics(live).text
    for metric in METRICS:
        assert f"# TYPE {metric.full_name} {metric.kind}" in text
    document = docs.PATH.read_text()
    assert document == docs.updated(document), "run python -m monitoring.metrics.docs"


def expressions() -> Iterator[str]:
    directory = ROOT / "docker" / "monitoring"
    for group in yaml.safe_load((directory / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    dashboard = json.loads((directory / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    yield from (variable["query"] for variable in dashboard["templating"]["list"])


def test_dashboard_and_alert_rules_name_metrics_and_labels_that_exist():
    metrics = {}
    for metric in METRICS:
        ends = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        metrics |= {metric.full_name + end: {*metric.labels, "le"} for end in ends}
    named = set()
    for expression in expressions():
        for name, _, selector in re.findall(r"(switchstand_\w+)({([^}]*)})?", expression):
            assert name in metrics, expression
            named.add(name)
            assert set(re.findall(r"(\w+)[!=]?[=~]+\"", selector)) <= metrics[name], expression
    assert len(named) > 15


def test_series_are_bounded(monkeypatch):
    monkeypatch.setattr(counters, "MOST_SERIES", 10)
    series: counters.Series = {}
    for number in range(100):
        counters._of(series, (f"route-{number}", "p"), 1)[0] += 1
    assert len(series) == 11
    assert series["other", "other"] == [90]


def test_a_process_that_ends_while_it_is_merged_counts_once(tmp_path):
    """The merge is broken off after the sum was written, before the files were removed."""
    store = Store(tmp_path)
    families = {"requests": [(("chat/completions", "gpt", "p", "answered", "2xx"), [5])]}
    store.post(WorkerReport(worker="w1", pid=1, started_at=0, at=0, families=families))
    kept = (tmp_path / "w1.json").read_bytes()
    store.close()
    (tmp_path / "w1.json").write_bytes(kept)
    (tmp_path / "w1.lock").touch()
    for _ in range(2):
        living, ended = Store(tmp_path).read()
        assert living == []
        assert [count for _, [count] in ended.families["requests"]] == [5]
        Store(tmp_path).merge_ended()
