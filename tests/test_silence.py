"""Three rules for silence, and whole answers that only the route's time-outs bound."""

import time

import pytest

from proxy.ask import decode_chat
from proxy.attempts.silence import PATIENT, QUICK, bound_of
from proxy.calls.call import Call, Incoming
from proxy.endpoints import CHAT_COMPLETIONS
from routing import compiler, gateway_keys
from routing.addresses import is_self_hosted
from routing.compiler import provider_entry
from tests.factories import make_fallback, make_key, make_provider, make_route, make_target
from tests.failing_over import results, route_over, row_of
from tests.upstream import Answer


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:11434/v1",
        "http://127.0.0.1:8000/v1",
        "http://10.2.3.4/v1",
        "http://[fd00::1]:8000/v1",
        "http://vllm:8000/v1",
        "http://ollama.models.svc:11434/v1",
        "http://host.docker.internal:11434/v1",
        "http://gpu.local/v1",
    ],
)
def test_a_machine_of_ones_own_is_known_by_its_address(url):
    assert is_self_hosted(url)


@pytest.mark.parametrize(
    "url", ["https://api.openai.com/v1", "https://8.8.8.8/v1", "https://a.example.com:8443"]
)
def test_a_public_address_is_none(url):
    assert not is_self_hosted(url)


@pytest.mark.parametrize("value", [None, 60.0])
def test_the_default_of_before_means_what_a_blank_means(db, value):
    assert provider_entry(make_provider(read_timeout=value)).connection.read_timeout is None


def test_what_an_admin_set_stays(db):
    assert provider_entry(make_provider(read_timeout=61)).connection.read_timeout == 61


def call_over(*urls, fallback=False, model="gpt-4o"):
    """A call to a route over providers at these addresses, as the engine has it before its first attempt."""
    route = make_route(name="gpt", strategy="ordered")
    for number, url in enumerate(urls):
        provider = make_provider(slug=f"p{number}", base_url=url)
        make_target(route=route, provider=provider, priority=number, upstream_model=model)
    if fallback:
        other = make_route(name="other")
        make_target(route=other, provider=make_provider(slug="other", base_url="https://o.example.com/v1"))
        make_fallback(route, other, kind="error")
    _, key = make_key()
    table = compiler.compile_table()
    call = Call(Incoming(CHAT_COMPLETIONS, {}, b"", time.perf_counter()), table)
    call.key = table.keys[gateway_keys.digest(key)]
    call.ask = decode_chat(
        b'{"model": "gpt", "stream": true, "messages": [{"role": "user", "content": "x"}]}', None
    )
    call.route = table.resolve("gpt")
    call.order = list(call.route.route.targets)
    return call


A, B, OWN = "https://a.example.com/v1", "https://b.example.com/v1", "http://vllm:8000/v1"


def bound(call, position=0):
    target = call.order[position]
    return bound_of(call, target, target.upstream_model)


@pytest.mark.parametrize(
    ("call", "position", "seconds"),
    [
        ({"urls": (A, B)}, 0, QUICK),
        ({"urls": (A, B)}, 1, PATIENT),
        ({"urls": (A,)}, 0, PATIENT),
        ({"urls": (A,), "fallback": True}, 0, QUICK),
        ({"urls": (OWN, B)}, 0, PATIENT),
        ({"urls": (A, B), "model": "o3-mini"}, 0, PATIENT),
        ({"urls": (A, B), "model": "deepseek-reasoner"}, 0, PATIENT),
        ({"urls": (A, B), "model": "anthropic/claude-opus-4-1"}, 0, PATIENT),
        ({"urls": (A, B), "model": "gpt-4o-mini"}, 0, QUICK),
    ],
)
def test_who_can_go_elsewhere_waits_less(db, call, position, seconds):
    assert bound(call_over(*call.pop("urls"), **call), position) == seconds


@pytest.fixture
def two(upstream, published):
    def make(**values):
        route_over(upstream, "gpt", "p1", "p2", **values)
        _, key = make_key()
        published()
        return key

    return make


def test_a_whole_answer_is_not_cut_by_the_providers_silence(door, upstream, two):
    """It is being made. A read time-out that an admin set holds for it as ever."""
    upstream.always("p1", Answer(delay=1.5))
    assert door.chat(two()).headers["x-proxy-provider"] == "p1"


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"attempt_timeout": 0.2}, "attempt time-out"),
        ({"first_byte_timeout": 0.2}, "first"),
        ({"provider": {"read_timeout": 0.2}}, "sent nothing at all"),
    ],
)
def test_the_row_says_which_rule_ended_an_attempt(door, upstream, two, values, rule):
    key = two(**values)
    upstream.always("p1", Answer(delay=20))
    with door.stream(key) as answer:
        answer.read()
    assert answer.headers["x-proxy-provider"] == "p2"
    assert rule in results(row_of(answer))[0][1]


def test_the_caller_is_told_whose_time_was_up(door, upstream, two):
    key = two(deadline=0.3)
    for slug in ("p1", "p2"):
        upstream.always(slug, Answer(delay=20))
    assert "the route's deadline" in door.chat(key).json()["error"]["message"]
    answer = door.chat(key, headers={"x-litellm-timeout": "0.2"})
    assert "x-litellm-timeout" in answer.json()["error"]["message"]
