"""OpenTelemetry: what a real receiver gets over OTLP/HTTP, and that it costs nothing where it is off."""

import re
import subprocess
import sys
import threading
import time

import httpx
import pytest

from proxy.calls import trace
from proxy.calls.trace import Finished, Tracing
from routing.compiler import current_version
from routing.models import ModelRoute, Provider
from tests import plain
from tests.collector import Collector
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ROOT, Door, LiveGateway, until
from tests.upstream import Answer, events

SERVER, CLIENT = 2, 3
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=x,other=y"}
TOKEN = "metrics-token"


@pytest.fixture(scope="module")
def collector():
    found = Collector()
    yield found
    found.close()


@pytest.fixture(scope="module", params=["fast", "httpx"])
def traced_gateway(request, tmp_path_factory, collector, django_db_setup):
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "UPSTREAM_TRANSPORT": request.param,
        "METRICS_TOKEN": TOKEN,
    }
    gateway = LiveGateway(tmp_path_factory.mktemp("traced"), env).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def traced(traced_gateway, collector, upstream, transactional_db):
    """(the gateway, a key): the route gpt goes to the provider `bad`, then to `good`."""
    collector.spans.clear()
    collector.status, collector.delay = 200, 0.0
    route = make_route(name="gpt", strategy="ordered")
    for priority, slug in enumerate(("bad", "good")):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=1, retry_delay=0)
        make_target(
            route=route,
            provider=provider,
            upstream_model=f"{slug}-model",
            priority=priority,
            input_price="1",
            output_price="2",
        )
    _, key = make_key(name="app")
    traced_gateway.wait_for_version(current_version())
    return traced_gateway, key


@pytest.fixture(params=["fast_lane", "drf"])
def way(request, traced):
    return Door(request.param, traced[0].url), traced[1]


def spans_of(collector, response):
    """(the server's span, its attempts in time) of one response; all spans of its trace are in there."""
    call_id = response.headers["x-litellm-call-id"]
    server = until(
        lambda: next(
            (s for s in collector.spans if s.attributes.get("switchstand.call_id") == call_id), None
        ),
        f"the trace of {call_id}",
    )
    others = [s for s in collector.spans if s.trace_id == server.trace_id and s is not server]
    assert all(span.parent_id == server.span_id for span in others)
    assert all(span.kind == CLIENT for span in others)
    assert server.kind == SERVER
    assert all(server.start <= span.start <= span.end <= server.end + 1_000_000 for span in others)
    return server, sorted(others, key=lambda span: span.start)


def parents_sent(upstream, name):
    """(trace id, span id, flags) as the provider got them."""
    return [tuple(seen.headers["traceparent"].split("-")[1:]) for seen in upstream.calls(name)]


def test_a_call_is_one_trace_with_its_attempt_as_child(way, collector, upstream):
    door, key = way
    answer = door.chat(key, headers={"x-request-id": "r-1"})
    server, [attempt] = spans_of(collector, answer)
    assert server.name == "POST /v1/chat/completions"
    assert server.parent_id == ""
    assert server.service == "switchstand"
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.request.model": "gpt",
        "switchstand.call_id": answer.headers["x-litellm-call-id"],
        "switchstand.request_id": "r-1",
        "switchstand.outcome": "answered",
        "switchstand.route": "gpt",
        "switchstand.key": "app",
        "switchstand.cost_usd": pytest.approx((24 * 1 + 48 * 2) / 1e6),
    }
    assert attempt.name == "chat bad-model"
    assert attempt.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "bad",
        "gen_ai.request.model": "bad-model",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "upstream-model",
        "gen_ai.usage.input_tokens": 24,
        "gen_ai.usage.output_tokens": 48,
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
    }
    assert not server.failed
    assert not attempt.failed
    assert parents_sent(upstream, "bad") == [(server.trace_id, attempt.span_id, "01")]
    assert abs(server.start / 1e9 - time.time()) < 30


def test_the_callers_context_is_honoured_and_passed_on(way, collector, upstream):
    door, key = way
    server, [attempt] = spans_of(collector, door.chat(key, headers=PARENT))
    assert (server.trace_id, server.parent_id, server.state) == (TRACE, SPAN, PARENT["tracestate"])
    [seen] = upstream.calls("bad")
    assert seen.headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
    assert seen.headers["tracestate"] == PARENT["tracestate"]


def test_a_stream_is_one_span_until_its_last_byte(way, collector, upstream):
    door, key = way
    upstream.always("bad", Answer(chunks=events("a", "b", "c", usage=True), gap=0.1))
    with door.stream(key) as answer:
        answer.read()
    server, [attempt] = spans_of(collector, answer)
    assert (attempt.end - attempt.start) / 1e9 > 0.35
    assert attempt.attributes["gen_ai.request.stream"] is True
    assert attempt.attributes["gen_ai.response.time_to_first_chunk"] < 0.3
    assert attempt.attributes["gen_ai.response.model"] == "m"
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 48
    assert server.attributes["http.response.status_code"] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_retries_and_fallbacks_are_further_children(way, collector, upstream, stream):
    door, key = way
    upstream.script("bad", Answer(status=500), Answer(status=503))
    if stream:
        with door.stream(key) as answer:
            answer.read()
    else:
        answer = door.chat(key)
    server, attempts = spans_of(collector, answer)
    assert [span.attributes["gen_ai.provider.name"] for span in attempts] in (
        ["bad", "bad", "good"],
        ["bad", "good"],
    )
    *failed, served = attempts
    assert all(span.failed and span.attributes["error.type"] == "upstream_error" for span in failed)
    assert not any("gen_ai.usage.input_tokens" in span.attributes for span in failed)
    assert "error.type" not in served.attributes
    assert served.attributes["gen_ai.usage.input_tokens"] > 0
    assert not server.failed
    sent = parents_sent(upstream, "bad") + parents_sent(upstream, "good")
    assert sent == [(server.trace_id, span.span_id, "01") for span in attempts]


def test_a_call_that_nobody_could_answer_has_failed(way, collector, upstream):
    door, key = way
    for slug in ("bad", "good"):
        upstream.always(slug, Answer(status=500))
    answer = door.chat(key)
    assert answer.status_code == 502
    server, attempts = spans_of(collector, answer)
    assert server.failed
    assert server.attributes["error.type"] == "upstream_error"
    assert len(attempts) >= 2
    assert all(span.failed for span in attempts)


def test_a_refused_call_is_a_trace_without_attempts(way, collector):
    door, key = way
    server, attempts = spans_of(collector, door.chat(key, "no-such-model", headers=PARENT))
    assert attempts == []
    assert server.trace_id == TRACE
    assert server.attributes["http.response.status_code"] == 404
    assert not server.failed, "the caller's fault is not the server's"


@pytest.mark.parametrize("stream", [False, True])
def test_a_hang_up_ends_the_trace(way, collector, upstream, stream):
    door, key = way
    gate = threading.Event()
    upstream.always("bad", Answer(chunks=events("a", "b"), gate=gate) if stream else Answer(delay=10))
    with pytest.raises(httpx.ReadTimeout) if not stream else pytest.raises(StopIteration):
        if not stream:
            door.client.timeout = 0.5
            door.chat(key, headers=PARENT)
        else:
            with door.stream(key, headers=PARENT) as answer:
                next(answer.iter_raw())
            raise StopIteration
    server = until(
        lambda: next((span for span in collector.spans if span.kind == SERVER), None), "the trace is exported"
    )
    gate.set()
    [attempt] = [span for span in collector.spans if span.kind == CLIENT]
    assert server.trace_id == attempt.trace_id == TRACE
    assert server.attributes["switchstand.outcome"] == "client_gone"
    assert server.attributes["error.type"] == "client_gone"
    assert attempt.parent_id == server.span_id
    if not stream:
        assert attempt.attributes["error.type"] == "cancelled"


def test_a_cut_stream_shows_where_it_broke(way, collector, upstream):
    door, key = way
    upstream.always("bad", Answer(chunks=events("a", "b", done=False, finish=False), cut="after_chunks"))
    with door.stream(key) as answer:
        answer.read()
    server, [attempt] = spans_of(collector, answer)
    assert attempt.attributes["error.type"] == "upstream_broken"
    assert server.attributes["switchstand.outcome"] == "upstream_broken"
    assert server.failed


def test_what_the_caller_does_not_sample_is_passed_on_and_not_exported(way, collector, upstream):
    door, key = way
    unsampled = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    assert door.chat(key, headers=unsampled).status_code == 200
    spans_of(collector, door.chat(key))  # exported after it
    assert not [span for span in collector.spans if span.trace_id == TRACE]
    trace_id, _, flags = parents_sent(upstream, "bad")[0]
    assert (trace_id, flags) == (TRACE, "00")


BROKEN = (
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}",
    "nonsense",
)


@pytest.mark.parametrize("given", BROKEN)
def test_a_broken_traceparent_begins_a_new_trace(traced, collector, given):
    gateway, key = traced
    server, _ = spans_of(collector, Door("fast_lane", gateway.url).chat(key, headers={"traceparent": given}))
    assert server.trace_id != TRACE
    assert server.parent_id == ""


def test_a_later_version_of_traceparent_is_understood(traced, collector):
    gateway, key = traced
    given = {"traceparent": f"01-{TRACE}-{SPAN}-01-what-may-come"}
    server, _ = spans_of(collector, Door("fast_lane", gateway.url).chat(key, headers=given))
    assert (server.trace_id, server.parent_id) == (TRACE, SPAN)


def test_no_text_of_request_or_answer_is_exported(traced, collector, upstream):
    gateway, key = traced
    upstream.always("bad", Answer(status=400, body={"error": {"message": "a-secret-prompt is bad"}}))
    door = Door("fast_lane", gateway.url)
    for messages in (
        [{"role": "user", "content": "a-secret-prompt"}],
        [{"role": "user", "content": '"model":"z"'}],
    ):
        spans_of(collector, door.chat(key, messages=messages))
    assert "a-secret-prompt" not in repr(collector.spans)
    assert key not in repr(collector.spans)


def test_a_race_shows_both_targets(traced, collector, upstream):
    gateway, key = traced
    ModelRoute.objects.filter(name="gpt").update(hedge_after_ms=100)
    gateway.wait_for_version(current_version())
    upstream.always("bad", Answer(delay=3))
    server, [lost, won] = spans_of(collector, Door("fast_lane", gateway.url).chat(key))
    assert (lost.attributes["gen_ai.provider.name"], won.attributes["gen_ai.provider.name"]) == (
        "bad",
        "good",
    )
    assert lost.attributes["error.type"] == "cancelled"
    assert lost.start < won.start < lost.end
    assert won.attributes["gen_ai.usage.output_tokens"] == 48
    assert not server.failed


def test_a_stream_that_another_target_continues_shows_both(traced, collector, upstream):
    gateway, key = traced
    ModelRoute.objects.filter(name="gpt").update(on_cut="continue")
    Provider.objects.filter(slug="good").update(continues="plain")
    gateway.wait_for_version(current_version())
    upstream.always(
        "bad", Answer(chunks=events("a", "b", done=False, finish=False), gap=0.2, cut="after_chunks")
    )
    upstream.always("good", Answer(chunks=events("c", usage=True), gap=0.2))
    with Door("fast_lane", gateway.url).stream(key) as answer:
        answer.read()
    server, [cut, rest] = spans_of(collector, answer)
    assert (cut.attributes["error.type"], "error.type" in rest.attributes) == ("upstream_broken", False)
    assert (cut.end - cut.start) / 1e9 > 0.15
    assert cut.end <= rest.start + 1_000_000
    assert not server.failed


def sum_of(collector, name, **wanted):
    points = collector.points.get(name, [])
    dotted = {label.replace("__", "."): value for label, value in wanted.items()}
    found = [(count, total) for attributes, count, total in points if dotted.items() <= attributes.items()]
    return sum(count for count, _ in found), sum(total for _, total in found)


def test_metrics_are_sent_too(traced, collector, upstream):
    gateway, key = traced
    door = Door("fast_lane", gateway.url)
    names = {
        "operations": ("gen_ai.client.operation.duration", {"gen_ai__request__model": "bad-model"}),
        "input": ("gen_ai.client.token.usage", {"gen_ai__token__type": "input"}),
        "output": ("gen_ai.client.token.usage", {"gen_ai__token__type": "output"}),
        "first": ("gen_ai.client.operation.time_to_first_chunk", {}),
        "requests": ("http.server.request.duration", {"http__response__status_code": 200}),
    }

    def now():
        return {key: sum_of(collector, name, **wanted) for key, (name, wanted) in names.items()}

    def settled():
        first = now()
        time.sleep(1.2)
        return now() == first and first

    time.sleep(1)
    before = until(settled, "earlier metrics have arrived", 20)
    upstream.always("bad", Answer(chunks=None))
    for _ in range(3):
        door.chat(key)
    with door.stream(key) as answer:
        answer.read()
    until(lambda: now()["requests"][0] == before["requests"][0] + 4, lambda: f"{before} {now()}")
    after = now()
    assert after["operations"][0] == before["operations"][0] + 4
    assert after["first"][0] == before["first"][0] + 1
    assert after["input"][0] == before["input"][0] + 4
    assert after["input"][1] >= before["input"][1] + 3 * 24
    assert after["output"][1] >= before["output"][1] + 3 * 48


def dropped(gateway):
    text = plain.get(f"{gateway.url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    return int(re.search(r"^switchstand_traces_dropped_total (\d+)$", text, re.MULTILINE)[1])


def test_a_collector_that_refuses_or_hangs_delays_no_call_and_drops_are_counted(traced, collector):
    gateway, key = traced
    door = Door("fast_lane", gateway.url)
    before = dropped(gateway)
    collector.status = 400
    assert door.chat(key).status_code == 200
    until(lambda: dropped(gateway) == before + 1, "the drop is counted")
    collector.status, collector.delay = 200, 3.0
    door.chat(key)
    time.sleep(1.2)  # the exporter hangs
    started = time.monotonic()
    for _ in range(20):
        assert door.chat(key).status_code == 200
    assert time.monotonic() - started < 2
    collector.delay = 0.0
    spans_of(collector, door.chat(key))
    assert dropped(gateway) == before + 1


def test_the_queue_is_bounded(monkeypatch):
    monkeypatch.setattr(trace, "MOST_WAITING", 10)
    tracing = Tracing(lambda parent, trace_id: True, lambda: None)
    finished = Finished(tracing.begin({}), None, 0.0, (), None)
    for _ in range(25):
        tracing.take(finished)
    assert (len(tracing.finished), tracing.dropped) == (10, 15)


def test_a_gateway_that_stops_sends_what_it_has(tmp_path, collector, upstream, transactional_db):
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}
    env |= {"OTEL_SERVICE_NAME": "gateway-7"}
    make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("p")))
    _, key = make_key()
    gateway = LiveGateway(tmp_path, env).start()
    try:
        answer = Door("fast_lane", gateway.url).chat(key)
    finally:
        gateway.stop()
    server, _ = spans_of(collector, answer)
    assert server.service == "gateway-7"


def test_nothing_is_imported_where_it_is_off():
    code = """if True:
        import django, sys
        django.setup()
        from proxy.gateway import build_gateway
        assert build_gateway().tracing is None
        # redis-py imports the SDK by itself where it is installed; what we would use of it isn't there.
        ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "google.protobuf", "proxy.tracing.otlp")
        assert not [name for name in sys.modules if name.startswith(ours)]
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_where_it_is_off_the_callers_context_is_not_passed_on(live, upstream, published):
    make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("p")))
    _, key = make_key()
    published()
    Door("fast_lane", live.url).chat(key, headers=PARENT)
    [seen] = upstream.calls("p")
    assert "traceparent" not in seen.headers
