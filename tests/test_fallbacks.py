"""Other routes that stand in when a route's own targets can't serve a request."""

import time

import pytest

from tests.factories import make_fallback, make_key
from tests.failing_over import results, route_over, row_of, stream
from tests.upstream import Answer

DOWN = Answer(status=500, body={})
TOO_LONG = Answer(status=400, body={"error": {"message": "too long", "code": "context_length_exceeded"}})
REFUSED = Answer(status=400, body={"error": {"message": "not that", "code": "content_policy_violation"}})


class Routes:
    """gpt over p1, with other routes in its lists."""

    def __init__(self, upstream, published):
        self._upstream = upstream
        self._published = published
        self.gpt = None

    def make(self, *, key=None, others=(), **values):
        """`others`: (name, kind, values) of fallback routes, each over one provider of its name."""
        self.gpt = route_over(self._upstream, "gpt", "p1", **values)
        self.others = {}
        for position, (name, kind, more) in enumerate(others):
            if name not in self.others:
                self.others[name] = route_over(self._upstream, name, name, **more)
            make_fallback(self.gpt, self.others[name], kind=kind, position=position)
        key = dict(key or {})
        key["allowed_routes"] = [self.gpt, *(self.others[name] for name in key.pop("may", []))] if key else []
        _, plaintext = make_key(**key)
        self._published()
        return plaintext


@pytest.fixture
def routes(upstream, published):
    return Routes(upstream, published)


def error(*names, **values):
    return [(name, "error", values) for name in names]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "stream"])
def test_fallbacks_are_tried_in_their_order(door, upstream, routes, streamed):
    key = routes.make(others=error("a", "b", "c"))
    for slug in ("p1", "a"):
        upstream.always(slug, DOWN)
    answer = stream(door, key).answer if streamed else door.chat(key)
    assert answer.status_code == 200
    assert answer.headers["x-litellm-model-group"] == "b"
    assert answer.headers["x-litellm-attempted-fallbacks"] == "2"
    assert answer.headers["x-proxy-provider"] == "b"
    assert [len(upstream.calls(slug)) for slug in ("p1", "a", "b", "c")] == [1, 1, 1, 0]
    assert upstream.calls("b")[0].json["model"] == "b-model"
    row = row_of(answer)
    assert (row.model, row.route, row.provider, row.attempts) == ("gpt", "b", "b", 3)


def test_the_real_error_is_told_where_all_fail(door, upstream, routes):
    key = routes.make(others=error("a"))
    upstream.always("p1", DOWN)
    upstream.always("a", Answer(status=503, body={}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (502, "a failed with status 503.")
    assert [len(upstream.calls(slug)) for slug in ("p1", "a")] == [1, 1]


def test_a_key_reaches_no_fallback_that_it_may_not_use(door, upstream, routes):
    key = routes.make(others=error("a", "b"), key={"may": ["b"]})
    upstream.always("p1", DOWN)
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-litellm-model-group"]) == (200, "b")
    assert upstream.calls("a") == []


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_callers_own_error_is_never_sent_anywhere_else(door, upstream, routes, status):
    others = [*error("a"), ("b", "context", {}), ("c", "policy", {})]
    key = routes.make(others=others, provider={"retries": 2})
    upstream.always("p1", Answer(status=status, body={"error": {"message": "bad tools"}}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, "bad tools")
    assert [len(upstream.calls(slug)) for slug in ("p1", "a", "b", "c")] == [1, 0, 0, 0]


def test_a_request_too_long_goes_to_a_larger_model_only(door, upstream, routes):
    others = [*error("a"), ("b", "context", {}), ("c", "context", {})]
    key = routes.make(others=others, provider={"retries": 2})
    upstream.always("p1", TOO_LONG)
    upstream.always("b", TOO_LONG)
    answer = door.chat(key)
    assert (answer.status_code, answer.headers["x-litellm-model-group"]) == (200, "c")
    assert [len(upstream.calls(slug)) for slug in ("p1", "a", "b", "c")] == [1, 0, 1, 1]


def test_a_request_too_long_never_goes_to_the_other_list(door, upstream, routes):
    key = routes.make(others=[*error("a"), ("b", "context", {})])
    upstream.always("p1", TOO_LONG)
    upstream.always("b", DOWN)
    assert door.chat(key).status_code == 502
    assert upstream.calls("a") == []


@pytest.mark.parametrize("answer", [TOO_LONG, REFUSED], ids=["context", "policy"])
def test_without_a_list_the_refusal_is_handed_to_the_caller(door, upstream, routes, answer):
    key = routes.make(others=error("a"))
    upstream.always("p1", answer)
    told = door.chat(key)
    expected = answer.body["error"]
    assert (told.status_code, told.json()["error"]["code"]) == (400, expected["code"])
    assert told.json()["error"]["message"] == expected["message"]
    assert upstream.calls("a") == []


def test_a_refused_content_goes_to_its_list(door, upstream, routes):
    key = routes.make(others=[("a", "policy", {})])
    upstream.always("p1", REFUSED)
    assert door.chat(key).headers["x-litellm-model-group"] == "a"


def test_a_route_whose_targets_all_pause_falls_back_at_once(door, upstream, routes):
    """The second request finds p1 rate limited: it is not even asked."""
    key = routes.make(others=error("a"), provider={"retries": 2})
    upstream.always("p1", Answer(status=429, body={}, headers={"retry-after": "30"}))
    started = time.monotonic()
    for number in range(3):
        answer = door.chat(key)
        assert (answer.status_code, answer.headers["x-litellm-model-group"]) == (200, "a")
        assert int(answer.headers["x-litellm-attempted-fallbacks"]) == 1, number
    assert time.monotonic() - started < 3
    assert len(upstream.calls("p1")) == 1


LIMITS = [
    {"rpm": 1},
    {"target": {"rpm": 1}},
    {"provider": {"rpm": 1}},
    {"parallel": 1},
]


@pytest.mark.parametrize("limit", LIMITS, ids=["route", "target", "provider", "parallel"])
def test_a_fallbacks_own_limits_hold(door, upstream, routes, limit):
    """Though neither the key nor the route that was asked for has any."""
    key = routes.make(others=[("a", "error", limit), ("b", "error", {})])
    upstream.always("p1", DOWN)
    served = [door.chat(key).headers["x-litellm-model-group"] for _ in range(2)]
    assert served == (["a", "a"] if "parallel" in limit else ["a", "b"])


def test_a_fallbacks_budget_bounds_its_answers(door, upstream, routes):
    key = routes.make(others=[("a", "error", {"budget_usd": "5", "budget_period": "day"})])
    upstream.always("p1", DOWN)
    assert door.chat(key).status_code == 200
    assert "max_tokens" not in upstream.calls("p1")[0].json
    assert upstream.calls("a")[0].json["max_tokens"] == 4096


def test_max_attempts_counts_fallbacks(door, upstream, routes):
    key = routes.make(others=error("a", "b"), max_attempts=2, provider={"retries": 0})
    for slug in ("p1", "a", "b"):
        upstream.always(slug, DOWN)
    answer = door.chat(key)
    assert answer.status_code == 502
    assert [len(upstream.calls(slug)) for slug in ("p1", "a", "b")] == [1, 1, 0]
    assert len(results(row_of(answer))) == 2


def test_each_fallback_is_tried_once_however_lists_point_at_each_other(door, upstream, routes, published):
    key = routes.make(others=error("a", "b"))
    make_fallback(routes.others["a"], routes.gpt)
    make_fallback(routes.others["b"], routes.others["a"])
    published()
    for slug in ("p1", "a", "b"):
        upstream.always(slug, DOWN)
    assert door.chat(key).status_code == 502
    assert [len(upstream.calls(slug)) for slug in ("p1", "a", "b")] == [1, 1, 1]
