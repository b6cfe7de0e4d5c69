"""An open circuit protects its target as long as anything else is left: own targets, then fallback lists."""

import pytest

from routing.models import GatewaySettings
from tests.factories import make_fallback, make_key
from tests.failing_over import part, results, route_over, row_of, stream, tokens
from tests.upstream import Answer

DOWN = Answer(status=500, body={})


@pytest.fixture
def routes(upstream, published):
    """gpt over some providers, the route `other` over p9 in its list; three failures open a circuit."""

    def make(*slugs, key=None, other=None, fallback=True, **values):
        GatewaySettings.objects.update_or_create(
            pk=1, defaults={"breaker_failures": 3, "cooldown_seconds": 300}
        )
        gpt = route_over(upstream, "gpt", *(slugs or ("p1",)), **values)
        second = route_over(upstream, "other", "p9", **(other or {}))
        if fallback:
            make_fallback(gpt, second, kind="error")
        allowed = {"allowed_routes": [gpt]} if key == "own" else {}
        _, plaintext = make_key(**allowed)
        published()
        return plaintext

    return make


def asked(upstream, *slugs):
    return [len(upstream.calls(slug)) for slug in slugs]


@pytest.mark.parametrize("slugs", [("p1",), ("p1", "p2")], ids=["one target", "two targets"])
def test_a_dead_provider_is_asked_until_its_circuit_opens_and_no_more(door, upstream, routes, slugs):
    key = routes(*slugs)
    for slug in slugs:
        upstream.always(slug, DOWN)
    for _ in range(12):
        assert door.chat(key).status_code == 200
    assert asked(upstream, *slugs, "p9") == [3] * len(slugs) + [12]


def test_a_silent_provider_makes_nobody_wait_once_its_circuit_is_open(door, upstream, routes):
    key = routes(attempt_timeout=0.2)
    upstream.always("p1", Answer(delay=30))
    for _ in range(6):
        assert stream(door, key).dones == 1
    assert asked(upstream, "p1", "p9") == [3, 6]


def test_the_broken_target_is_the_last_resort_of_all(door, upstream, routes):
    key = routes()
    upstream.always("p1", DOWN)
    for _ in range(3):
        door.chat(key)
    upstream.always("p9", DOWN)
    upstream.always("p1", Answer())
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p1")
    assert answer.headers["x-litellm-model-group"] == "gpt"
    row = row_of(answer)
    assert (row.route, row.provider) == ("gpt", "p1")
    assert [entry for entry in results(row) if entry[1] == "200"] == [("p1", "200")]


def test_without_a_usable_fallback_the_broken_target_is_asked_as_before(door, upstream, routes):
    key = routes(key="own")
    upstream.always("p1", DOWN)
    for _ in range(5):
        assert door.chat(key).status_code == 502
    assert asked(upstream, "p1", "p9") == [5, 0]


def test_a_fallback_at_its_limit_leaves_the_broken_target(door, upstream, routes):
    key = routes(other={"rpm": 4})
    upstream.always("p1", DOWN)
    for _ in range(4):
        assert door.chat(key).status_code == 200
    upstream.always("p1", Answer())
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-proxy-provider"]) == (200, "p1")


def test_limits_are_settled_whatever_served(door, upstream, routes):
    """Each hold is given back: as many calls in parallel as before fit again."""
    key = routes(parallel=1, other={"parallel": 1}, provider={"parallel": 1})
    upstream.always("p1", DOWN)
    for _ in range(8):
        assert door.chat(key).status_code == 200
    upstream.always("p9", DOWN)
    for _ in range(4):
        assert door.chat(key).status_code == 502
    upstream.always("p1", Answer())
    assert door.chat(key).status_code == 200


# Streams that are continued


BEGUN = Answer(chunks=part(tokens(0, 40), id="one", end=False), cut="after_chunks", stall=0.05)
REST = Answer(chunks=part(tokens(40, 60), id="two"))


def test_a_cut_stream_is_continued_by_a_fallback_route(door, upstream, routes):
    key = routes(
        on_cut="continue", provider={"continues": "plain"}, other={"provider": {"continues": "plain"}}
    )
    upstream.always("p1", BEGUN)
    upstream.always("p9", REST)
    told = stream(door, key)
    assert told.text == "".join(tokens(0, 60))
    assert (told.errors, told.dones) == ([], 1)
    assert asked(upstream, "p1", "p9") == [1, 1]


def test_a_fallback_whose_provider_does_not_continue_is_not_asked(door, upstream, routes):
    key = routes(on_cut="continue", provider={"continues": "plain"})
    upstream.always("p1", BEGUN)
    told = stream(door, key)
    assert len(told.errors) == 1
    assert asked(upstream, "p1", "p9") == [1, 0]
    assert told.row.route == "gpt"


def test_a_limit_of_the_fallback_holds_for_a_continued_stream_as_well(door, upstream, routes):
    other = {"rpm": 1, "provider": {"continues": "plain"}}
    key = routes(on_cut="continue", provider={"continues": "plain"}, other=other)
    upstream.always("p1", BEGUN)
    upstream.always("p9", REST)
    assert stream(door, key).errors == []
    assert len(stream(door, key).errors) == 1
    assert asked(upstream, "p1", "p9") == [2, 1]
