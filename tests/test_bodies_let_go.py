"""Refusals and failures keep nothing, whatever their status: memory is free without the garbage collector."""

import asyncio
import gc
import json
from collections import Counter
from functools import partial

import pytest

from proxy.gateway import build_gateway, stop_gateway
from routing.models import GatewaySettings
from tests.factories import make_key, make_provider, make_route, make_target
from tests.served_in_process import ORIGIN, ServedInProcess
from tests.upstream import Answer, events

ROUNDS, WARM = 50, 3  # of each kind
FEW = 3  # connections and watches that are just being closed
FILLER = "x" * 50_000
DOORS = {"fast_lane": {}, "drf": ORIGIN}


@pytest.fixture
def served(settings, tmp_path, transactional_db, upstream):
    """A route whose one provider fails, one that hedges, one of two providers; a key with limits."""
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    settings.AUTH_FAILURES_PER_MINUTE = 10**6
    for name, values in (("one", {}), ("two", {}), ("hedged", {"hedge_after_ms": 1})):
        route = make_route(name=name, **values)
        for number in range(1 if name == "one" else 2):
            slug = f"{name}-{number}"
            provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=0, api_key="k" * 20)
            make_target(route=route, provider=provider, upstream_model="m", priority=number)
    stop_gateway()
    gateway = build_gateway()
    gateway.keeper.refresh()
    with ServedInProcess(gateway) as running:
        yield running


def body(model="one", **more):
    return json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "Hello!"}], "filler": FILLER} | more
    ).encode()


def alive():
    """Objects of the gateway's own classes: what holds a body is one of them, or held by one."""
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(f"{kind.__module__}.{kind.__name__}" for kind in kinds if kind.__module__ in MODULES)


MODULES = {
    f"proxy.{name}"
    for name in (
        *("call", "ask", "errors", "attempt", "attempts", "hedging", "relay", "whole", "sse", "continuing"),
        *("engine", "fast_lane", "asgi", "deadline", "together", "transports.http1", "transports.fast"),
        *("transports.base", "content.capture", "admission.base", "admission.memory", "targets.board"),
    )
}


def growth(served, calls, rounds=ROUNDS):
    """What so many rounds leave behind, with the collector off."""

    async def go(number):
        for _ in range(number):
            for call in calls:
                await call()
        await asyncio.sleep(0.01)  # what is closed behind an answer

    served.run(go(WARM))
    gc.collect()
    gc.disable()
    try:
        before = alive()
        served.run(go(rounds))
        return {name: number for name, number in (alive() - before).items() if number > FEW}
    finally:
        gc.enable()


def asking(served, asked, status, headers):
    """On a connection of its own: who is refused before the body may find it closed."""

    async def call():
        client = await served.client()
        found, told = await client.ask(asked, **headers)
        await client.close()
        assert found == status, told

    return call


REFUSALS = {
    "400 no JSON": (400, {}, b'{"model": "one", "filler": "' + FILLER.encode()),
    "400 no messages": (400, {}, json.dumps({"model": "one", "filler": FILLER}).encode()),
    "400 a header": (400, {"x_litellm_timeout": "soon"}, body()),
    "401 unknown key": (401, {"authorization": "Bearer wrong"}, body()),
    "401 no key": (401, {"authorization": ""}, body()),
    "404 unknown model": (404, {}, body("nothing")),
    "404 unknown provider": (404, {"x_litellm_route": "nobody"}, body()),
    "403 a forbidden model": (403, {"authorization": "{narrow}"}, body()),
    "403 caller's key": (403, {"x_litellm_api_key": "own-key"}, body()),
    "429 over a limit": (429, {"authorization": "{full}"}, body()),
}


@pytest.mark.parametrize("door", DOORS)
def test_500_refusals_keep_nothing(served, door):
    keys = {
        "good": make_key()[1],
        "narrow": make_key(allowed_routes=[make_route(name="other")])[1],
        "full": make_key(rpm=1)[1],
    }
    served._gateway.keeper.refresh()

    def given(headers):
        given = {"authorization": "{good}"} | DOORS[door] | headers
        return {name: value.replace("{", "Bearer {").format(**keys) for name, value in given.items()}

    full = given({"authorization": "{full}"})
    served.run(asking(served, body(), 200, full)())
    calls = [asking(served, asked, status, given(headers)) for status, headers, asked in REFUSALS.values()]
    assert growth(served, calls) == {}


def failing(kind):
    return {
        "500": Answer(500, {"error": {"message": "no"}}),
        "400": Answer(400, {"error": {"message": "no"}}),
        "401": Answer(401, {"error": {"message": "no"}}),
        "429": Answer(429, {"error": {"message": "no"}}),
        "408": Answer(408, {"error": {"message": "no"}}),
        "too long": Answer(400, {"error": {"message": "maximum context length"}}),
        "malformed": Answer(200, b"{"),
        "garbage": Answer(garbage=b"nonsense\r\n\r\n"),
        "cut": Answer(cut="before_headers"),
        "cut in the middle": Answer(cut="mid_body"),
        "error event": Answer(chunks=[b'data: {"error": {"message": "no"}}\n\n'], at_once=True),
        "cut stream": Answer(chunks=events("a", "b", done=False, finish=False), cut="after_chunks"),
        "malformed stream": Answer(chunks=[*events("a", done=False, finish=False), b"data: {nonsense}\n\n"]),
    }[kind]


FAILURES = {
    "500": 502, "400": 400, "401": 502, "429": 429, "408": 504, "too long": 400, "malformed": 502,
    "garbage": 502, "cut": 502, "cut in the middle": 502, "error event": 502, "cut stream": 200,
    "malformed stream": 200,
}  # fmt: skip


@pytest.fixture
def key(served):
    """With no circuit breaker: each call asks its providers."""
    rules = GatewaySettings.objects.get_or_create(pk=1)[0]
    rules.breaker_enabled = False
    rules.save()
    _, plaintext = make_key()
    served._gateway.keeper.refresh()
    return plaintext


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", ["two", "hedged"])
def test_failures_of_providers_keep_nothing(served, upstream, key, model, door):
    given = {"authorization": f"Bearer {key}"} | DOORS[door]

    def call_of(kind, status):
        stream = "event" in kind or "stream" in kind
        call = asking(served, body(model, stream=stream), status, given)

        def scripted():
            for number in range(2):
                upstream.always(f"{model}-{number}", failing(kind))
            return call()

        return scripted

    calls = [call_of(kind, status) for kind, status in FAILURES.items()]
    assert growth(served, calls, rounds=10) == {}


@pytest.mark.parametrize("door", DOORS)
def test_callers_who_leave_keep_nothing(served, upstream, key, door):
    given = {"authorization": f"Bearer {key}"} | DOORS[door]
    for model in ("one", "hedged"):
        for number in range(2):
            upstream.always(f"{model}-{number}", Answer(delay=5))
    upstream.always("two-0", Answer(chunks=events("a", "b"), gap=5))

    async def call(model):
        client = await served.client()
        before = len(upstream.calls(f"{model}-0"))
        client.send(body(model, stream=model == "two"), **given)
        while len(upstream.calls(f"{model}-0")) == before:  # noqa: ASYNC110 in another thread
            await asyncio.sleep(0.001)
        if model == "hedged":
            await asyncio.sleep(0.005)
        await client.close(reset=True)
        while served._gateway.engine.accounting._open:  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    calls = [partial(call, model) for model in ("one", "two", "hedged")]
    assert growth(served, calls, rounds=15) == {}
