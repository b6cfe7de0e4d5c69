"""What providers' errors mean: too long, refused, unpaid, busy, a wrong address; in their own words."""

import re
from itertools import product
from pathlib import Path

import msgspec
import pytest

from proxy.dialects.openai.errors import read_error
from proxy.dialects.words import SAYINGS, Cause, found_words, own_words
from tests.factories import make_fallback, make_key, make_provider, make_route, make_target
from tests.live import until
from tests.upstream import Answer

DOCS = Path(__file__).resolve().parent.parent / "docs" / "providers.md"
LONG = "Prompts like this one are too long for the model, says its maker."


def error(message="no", code=None, **more):
    return {"error": {"message": message, "code": code} | more}


@pytest.fixture
def two(upstream, published):
    """A route gpt: p1, then p2, neither is retried; p1's errors are the test's, p2 answers."""
    route = make_route(name="gpt", strategy="ordered")
    for slug in ("p1", "p2"):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), retries=0)
        make_target(route=route, provider=provider, priority=int(slug[1]))
    _, key = make_key()
    published()
    return key


@pytest.fixture
def lists(upstream, published):
    """A route gpt at p1 with a context and a policy list, each to a route of its own at its own provider."""
    route = make_route(name="gpt")
    make_target(route=route, provider=make_provider(slug="p1", base_url=upstream.url("p1"), retries=0))
    for kind in ("context", "policy"):
        other = make_route(name=kind)
        make_target(route=other, provider=make_provider(slug=kind, base_url=upstream.url(kind)))
        make_fallback(route, other, kind=kind)
    _, key = make_key()
    published()
    return key


def asked(upstream, *slugs):
    return [len(upstream.calls(slug)) for slug in slugs]


# The tables of words


EXAMPLES = [(cause, saying) for cause, sayings in SAYINGS.items() for saying in sayings]


@pytest.mark.parametrize(("cause", "saying"), EXAMPLES, ids=lambda value: getattr(value, "provider", value))
def test_an_example_is_found_by_its_own_pattern_and_stands_in_the_docs(cause, saying):
    assert re.search(saying.pattern, saying.example, re.IGNORECASE)
    assert found_words(cause, own_words(saying.example))
    assert saying.example in DOCS.read_text()


def test_no_example_means_two_things():
    wrong = [
        (saying.example, other)
        for (cause, saying), other in product(EXAMPLES, Cause)
        if other is not cause and found_words(other, own_words(saying.example))
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "message",
    [
        "Rate limit reached for requests",
        "temperature is too hot",
        "The model `m` does not exist",
        "Incorrect API key provided",
        "messages: at least one message is required",
        "Invalid value: 'insufficient balance'. Supported values are: 'user', 'assistant'.",
        "Invalid 'messages[0].role': \"usage guidelines\" is not one of them",
    ],
)
def test_other_messages_and_what_they_quote_mean_none_of_them(message):
    assert [cause for cause in Cause if found_words(cause, own_words(message))] == []


# Too long


@pytest.mark.parametrize("saying", SAYINGS[Cause.TOO_LONG], ids=lambda saying: saying.provider)
def test_a_request_that_is_too_long_goes_to_the_context_list(door, upstream, lists, saying):
    upstream.always("p1", Answer(status=400, body=error(saying.example)))
    assert door.chat(lists).status_code == 200
    assert asked(upstream, "context", "policy") == [1, 0]


@pytest.mark.parametrize("stream", [False, True])
def test_413_goes_to_the_next_target_then_to_the_context_list(door, upstream, two, lists_of_two, stream):
    too_large = Answer(
        status=413,
        body=error(
            "Request too large for model `m` on tokens per minute (TPM): Limit 6000", "rate_limit_exceeded"
        ),
    )
    upstream.always("p1", too_large)
    assert door.chat(two, stream=stream).status_code == 200
    assert asked(upstream, "p1", "p2", "context") == [1, 1, 0]
    upstream.always("p2", too_large)
    assert door.chat(two, stream=stream).status_code == 200
    assert asked(upstream, "p1", "p2", "context") == [2, 2, 1]


@pytest.fixture
def lists_of_two(upstream, two, published):
    other = make_route(name="context")
    make_target(route=other, provider=make_provider(slug="context", base_url=upstream.url("context")))
    from routing.models import ModelRoute

    make_fallback(ModelRoute.objects.get(name="gpt"), other, kind="context")
    published()


def test_413_of_the_only_target_reaches_the_caller_with_its_words(door, upstream, published):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=2)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    upstream.always("p1", Answer(status=413, body=error("Request Entity Too Large")))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["message"]) == (413, "Request Entity Too Large")
    assert len(upstream.calls("p1")) == 1


# Refused content


REFUSALS = [
    {
        "code": "The caller does not have permission to execute the specified operation",
        "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK",
    },
    error(
        "The model requires moderation and your input was flagged", 403, metadata={"reasons": ["violence"]}
    ),
    error("Forbidden", 403, metadata={"flagged_input": "x"}),
    error("blocked", "content_filter"),
]


@pytest.mark.parametrize("status", [400, 403, 422, 429, 500])
@pytest.mark.parametrize("body", REFUSALS)
def test_refused_content_is_the_callers_whatever_its_status(door, upstream, two, body, status):
    upstream.always("p1", Answer(status=status, body=body))
    answer = door.chat(two)
    assert answer.status_code == (status if status in (400, 403) else 400)
    told = answer.json()["error"]
    assert told["type"] == "invalid_request_error"
    assert told["code"] in ("content_policy_violation", "content_filter")
    inner = body["error"] if isinstance(body["error"], str) else body["error"]["message"]
    assert told["message"] == inner
    assert asked(upstream, "p1", "p2") == [1, 0]


def test_refused_content_under_403_goes_to_the_policy_list_alone(door, upstream, lists):
    upstream.always("p1", Answer(status=403, body=REFUSALS[0]))
    assert door.chat(lists).status_code == 200
    assert asked(upstream, "context", "policy") == [0, 1]


def test_refused_prompts_of_one_caller_open_no_circuit_for_others(door, upstream, two):
    upstream.always("p1", Answer(status=403, body=REFUSALS[0]))
    for _ in range(4):
        assert door.chat(two).status_code == 403
    upstream.clear()
    assert door.chat(two).status_code == 200
    assert asked(upstream, "p1", "p2") == [1, 0]


# An unpaid account


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (402, error("Insufficient Balance", "invalid_request_error")),
        (402, b""),
        (
            400,
            error(
                "Your credit balance is too low to access the Anthropic API.", type="invalid_request_error"
            ),
        ),
        (403, error("Sorry, your account balance is insufficient", 30001)),
        (429, error("You exceeded your current quota.", "insufficient_quota", type="insufficient_quota")),
        (429, error("Your account org-1 is suspended", type="exceeded_current_quota_error")),
        (412, error("Account a is suspended, possibly due to failure to pay past invoices")),
    ],
)
def test_an_unpaid_account_leads_to_the_next_target(door, upstream, two, stream, status, body):
    upstream.always("p1", Answer(status=status, body=body))
    assert door.chat(two, stream=stream).status_code == 200
    assert asked(upstream, "p1", "p2") == [1, 1]


def test_the_caller_is_not_told_what_is_owed_but_the_admin_is(door, upstream, published, logged):
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=2)
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    upstream.always("p1", Answer(status=402, body=error("Insufficient Balance: -12.50 USD")))
    answer = door.chat(key)
    told = answer.json()["error"]
    assert (answer.status_code, told["code"], told["gateway_code"]) == (
        502,
        "upstream_unpaid",
        "UPSTREAM_ERROR",
    )
    assert "12.50" not in answer.text
    assert len(upstream.calls("p1")) == 1
    row = logged(answer)
    assert row.outcome == "upstream_failed"
    assert row.error_code == "upstream_unpaid"
    assert "-12.50 USD" in str(row.attempt_trail)


def test_402_opens_the_circuit_like_any_failure(door, upstream, two):
    upstream.always("p1", Answer(status=402, body=error("Insufficient Balance")))
    for _ in range(5):
        assert door.chat(two).status_code == 200
    assert asked(upstream, "p1", "p2") == [3, 5]


def test_words_of_money_open_no_circuit_until_a_second_caller_meets_them(door, upstream, two):
    upstream.always("p1", Answer(status=403, body=error("Sorry, your account balance is insufficient")))
    for _ in range(5):
        door.chat(two)
    assert asked(upstream, "p1", "p2") == [5, 5]
    _, other = make_key(name="other")
    until(lambda: door.chat(other).status_code == 200, "the other key is known")
    for _ in range(6):
        door.chat(other)
    assert len(upstream.calls("p1")) < 5 + 7


@pytest.mark.parametrize(("status", "told"), [(400, 400), (403, 200)])
def test_words_of_money_that_the_request_has_too_are_not_the_accounts(door, upstream, two, status, told):
    """400 is then the caller's; 403 a refused credential, as without the words."""
    upstream.always("p1", Answer(status=status, body=error("Bad text: insufficient balance")))
    messages = [{"role": "user", "content": "What does Insufficient Balance mean?"}]
    assert door.chat(two, messages=messages).status_code == told


def test_a_rate_limit_that_says_when_to_come_back_is_no_bill(door, upstream, published):
    make_target(
        route=make_route(name="gpt"),
        provider=make_provider(slug="p1", base_url=upstream.url("p1"), retries=0),
    )
    _, key = make_key()
    published()
    body = error(
        "You exceeded your current quota, please check your plan and billing details. Monthly spending limit"
    )
    upstream.always("p1", Answer(status=429, body=body, headers={"retry-after": "32"}))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "upstream_rate_limited")


# Places and capacity


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"detail": "Not Found"}),
        (404, b"404 page not found\n"),
        (
            404,
            b"<html><head><title>404</title></head><body><h1>404 Not Found</h1>nginx</body></html>",
        ),
        (404, error("Invalid URL (POST /v1/v1/chat/completions)", type="invalid_request_error")),
        (404, error("Resource not found", "404")),
        (404, error("The API deployment for this resource does not exist.", "DeploymentNotFound")),
        (404, b""),
        (405, {"detail": "Method Not Allowed"}),
        (407, b""),
        (421, b""),
        (424, {"error": "Request failed during generation"}),
        (425, b""),
        (498, error("Flex tier capacity exceeded")),
        (499, b""),
        (403, error("The model is currently overloaded.")),
    ],
)
def test_a_wrong_place_or_missing_capacity_is_not_the_callers_fault(door, upstream, two, status, body):
    upstream.always("p1", Answer(status=status, body=body))
    assert door.chat(two).status_code == 200
    assert asked(upstream, "p1", "p2") == [1, 1]


@pytest.mark.parametrize(
    "body",
    [
        error("The model `m` does not exist or you do not have access to it.", "model_not_found"),
        {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404},
        error('model "m" not found, try pulling it first'),
        error("No endpoints found for m.", 404),
    ],
)
def test_a_model_that_a_provider_does_not_have_stays_the_callers(door, upstream, two, body):
    upstream.always("p1", Answer(status=404, body=body))
    answer = door.chat(two)
    assert (answer.status_code, answer.json()["error"]["gateway_code"]) == (404, "MODEL_NOT_AVAILABLE")


# The provider's own message


M = "the provider's own words: M"


@pytest.mark.parametrize(
    "body",
    [
        [{"error": {"message": M}}],
        {"detail": M},
        {"detail": [{"loc": ["body", "x"], "msg": M}]},
        {"errors": [{"message": M}]},
        {"errors": [M]},
        {"error": {"message": {"detail": M}}},
        {"msg": M},
        {"error_msg": M},
        {"error": M},
        {"message": M},
        {"base_resp": {"status_code": 1, "status_msg": M}},
        M.encode(),
        b"<html><head><title>x</title></head><body><p>" + M.encode() + b"</p></body></html>",
        b"\xef\xbb\xbf" + b'{"detail": "' + M.encode() + b'"}',
    ],
)
def test_the_providers_message_is_kept_in_all_real_shapes(door, upstream, two, body):
    upstream.always("p1", Answer(status=400, body=body))
    answer = door.chat(two)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == M


@pytest.mark.parametrize("body", [b"", b"  \n ", {}, {"error": None}, [], {"error": {"message": None}}])
def test_a_body_that_says_nothing_gets_the_gateways_words(door, upstream, two, body):
    upstream.always("p1", Answer(status=400, body=body))
    message = door.chat(two).json()["error"]["message"]
    assert message


def test_a_message_is_bounded_whatever_its_shape():
    assert len(read_error(b"x" * 100_000).message) == 2000
    assert len(read_error(msgspec.json.encode({"error": {"message": "x" * 100_000}})).message) == 2000
    assert read_error(b"[" * 100_000).message
    assert read_error(b'{"code": ' + b"9" * 6000 + b"}").code == ""


# An admin's own words


def test_an_admins_own_words_lead_where_the_built_in_ones_do(door, upstream, lists, published):
    from routing.models import Provider

    provider = Provider.objects.get(slug="p1")
    upstream.always("p1", Answer(status=400, body=error(LONG)))
    assert door.chat(lists).status_code == 400
    provider.words_too_long = "TOO LONG for the model\nsomething else"
    provider.full_clean()
    provider.save()
    published()
    assert door.chat(lists).status_code == 200
    assert asked(upstream, "context") == [1]


@pytest.mark.parametrize("words", ["abc", "ok\nlong enough", "\n".join(["four"] * 51)])
def test_words_that_would_be_found_in_anything_are_refused(db, words):
    from django.core.exceptions import ValidationError

    provider = make_provider(slug="p1")
    provider.words_busy = words
    with pytest.raises(ValidationError, match="4 characters or more"):
        provider.full_clean()


# How long to wait


def test_retry_after_ms_counts_first(door, upstream, published):
    make_target(
        route=make_route(name="gpt"),
        provider=make_provider(slug="p1", base_url=upstream.url("p1"), retries=0),
    )
    _, key = make_key()
    published()
    upstream.always("p1", Answer(status=429, body={}, headers={"retry-after-ms": "20000"}))
    assert door.chat(key).headers["retry-after"] == "20"
