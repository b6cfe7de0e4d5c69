"""Copies to a shadow target: logged apart, thrown away, and never in the way of the real request."""

import time

import pytest

from monitoring.models import RequestLog
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import until
from tests.upstream import Answer, events


@pytest.fixture
def gpt(upstream, published):
    route = make_route(name="gpt")
    for slug, values in (("real", {}), ("copy", {"shadow_percent": 100})):
        provider = make_provider(
            slug=slug,
            base_url=upstream.url(slug),
            retries=0,
            allow_caller_key=True,
            health_check_enabled=False,
        )
        prices = {"input_price": "1", "output_price": "1"}
        make_target(route=route, provider=provider, upstream_model=f"own-{slug}", **prices, **values)
    _, key = make_key(name="app", rpm=1000)
    published()
    return key


def rows(answer):
    """(the real row, the shadow's row), once both are there."""
    found = RequestLog.objects.filter(request_id=answer.headers["x-request-id"])
    until(lambda: found.count() == 2, "both rows are there")
    return found.get(shadow=False), found.get(shadow=True)


def test_the_copy_is_the_same_request_under_the_shadows_own_model(door, upstream, gpt):
    answer = door.chat(gpt, seed=7)
    assert answer.headers["x-proxy-provider"] == "real"
    until(lambda: upstream.calls("copy"), "the copy arrives")
    real, copy = upstream.calls("real")[0].json, upstream.calls("copy")[0].json
    assert (real["model"], copy["model"]) == ("own-real", "own-copy")
    assert (copy["seed"], copy["messages"]) == (7, real["messages"])


def test_the_copy_leaves_a_row_of_its_own_that_no_key_pays_for(door, upstream, gpt):
    real, shadow = rows(door.chat(gpt))
    assert (real.key_name, real.provider, real.outcome) == ("app", "real", "answered")
    assert (shadow.provider, shadow.upstream_model, shadow.outcome, shadow.status) == (
        "copy",
        "own-copy",
        "answered",
        200,
    )
    assert (shadow.key_id, shadow.key_name, shadow.team) == (None, "", "")
    assert shadow.cost_nano_usd == real.cost_nano_usd == 72_000
    assert shadow.attempt_trail[0]["result"] == "200"


def test_streams_are_copied_to_their_end(door, upstream, gpt):
    upstream.always("copy", Answer(chunks=events(*"abcdef", usage=True), gap=0.02))
    with door.stream(gpt) as answer:
        answer.read()
    _, shadow = rows(answer)
    assert (shadow.stream, shadow.outcome, shadow.output_tokens) == (True, "answered", 48)


@pytest.mark.parametrize(
    "fault",
    [Answer(status=500), Answer(cut="before_headers", reset=True), Answer(status=429)],
    ids=["500", "reset", "429"],
)
def test_a_failing_shadow_is_logged_and_the_caller_sees_none_of_it(door, upstream, gpt, fault):
    upstream.always("copy", fault)
    answer = door.chat(gpt)
    assert answer.status_code == 200
    _, shadow = rows(answer)
    assert shadow.outcome == "upstream_failed"
    assert shadow.cost_nano_usd is None


def test_a_slow_shadow_delays_nobody(door, upstream, gpt):
    upstream.always("copy", Answer(delay=1.5))
    started = time.monotonic()
    answer = door.chat(gpt)
    assert answer.status_code == 200
    assert time.monotonic() - started < 1
    _, shadow = rows(answer)
    assert shadow.total_ms > 1400


def test_a_hung_shadow_takes_a_bounded_number_of_copies(door, upstream, gpt):
    upstream.always("copy", Answer(delay=3))
    for _ in range(80):
        assert door.chat(gpt).status_code == 200
    copies = len(upstream.calls("copy"))
    assert 0 < copies <= 64
    # The next test finds none of them in flight.
    until(lambda: RequestLog.objects.filter(shadow=True).count() >= copies, "the copies end")


def test_a_shadow_never_answers_even_where_nothing_else_does(door, upstream, gpt):
    upstream.always("real", Answer(status=500))
    assert door.chat(gpt).status_code == 502
    answer = door.chat(gpt, headers={"x-litellm-route": "copy"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_a_caller_who_chose_or_pays_for_the_provider_is_not_copied(door, upstream, gpt):
    door.chat(gpt, headers={"x-litellm-route": "real"})
    door.chat(gpt, headers={"x-litellm-api-key": "own-key-1"})
    time.sleep(0.3)
    assert len(upstream.calls("real")) == 2
    assert not upstream.calls("copy")


def test_a_shadow_gets_its_share(door, upstream, gpt, published):
    from routing.models import RouteTarget

    RouteTarget.objects.filter(provider__slug="copy").update(shadow_percent=25)
    published()
    for _ in range(200):
        door.chat(gpt)
    time.sleep(0.2)
    assert 25 <= len(upstream.calls("copy")) <= 80


def test_a_copy_counts_against_no_limit_of_the_key(door, gpt):
    left = [int(door.chat(gpt).headers["x-ratelimit-remaining-requests"]) for _ in range(3)]
    assert left == [999, 998, 997]
