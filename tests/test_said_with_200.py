"""Beside the textbook: refusals with 200, shut accounts, odd waits, charsets, halves of characters."""

import json

import pytest

from proxy.attempts.retry_after import retry_after_seconds
from proxy.dialects.openai.answer import without_halves
from tests.factories import make_fallback, make_key, make_provider, make_route, make_target
from tests.upstream import Answer, completion, events

REFUSED = {"message": "Your input was flagged", "code": 403, "metadata": {"reasons": ["violence"]}}
TOO_LONG = {"object": "error", "message": "This model's maximum context length is 8192 tokens.", "code": 400}
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def two(upstream, published):
    """A route gpt: p1, then p2; a context list to a third provider."""
    route, other = make_route(name="gpt", strategy="ordered"), make_route(name="context")
    for slug in ("p1", "p2"):
        provider = make_provider(
            slug=slug, base_url=upstream.url(slug), retries=0, api_key="sk-of-the-provider"
        )
        make_target(route=route, provider=provider, priority=int(slug[1]))
    make_target(route=other, provider=make_provider(slug="context", base_url=upstream.url("context")))
    make_fallback(route, other, kind="context")
    _, key = make_key()
    published()
    return key


def said(error, way):
    """The same error as a whole body, as a stream's first event, and as JSON where a stream was asked for."""
    if way == "event":
        return Answer(chunks=[b"data: " + json.dumps({"error": error}).encode() + b"\n\n", DONE])
    return Answer(body={"error": error})


def asked(upstream):
    return [len(upstream.calls(slug)) for slug in ("p1", "p2", "context")]


WAYS = [("body", False), ("body", True), ("event", True)]


@pytest.mark.parametrize(("way", "stream"), WAYS)
def test_content_refused_with_200_is_not_sent_to_the_next_provider(door, upstream, two, way, stream):
    error = REFUSED | {"message": "Your input was flagged, sk-of-the-provider"}
    upstream.always("p1", said(error, way))
    answer = door.chat(two, stream=stream)
    assert (answer.status_code, asked(upstream)) == (400, [1, 0, 0])
    told = answer.json()["error"]
    assert told["code"] == "content_policy_violation"
    assert told["message"] == "Your input was flagged, [redacted]"


@pytest.mark.parametrize(("way", "stream"), WAYS)
def test_a_prompt_that_is_too_long_with_200_goes_to_the_context_list(door, upstream, two, way, stream):
    upstream.always("p1", said(TOO_LONG, way))
    assert door.chat(two, stream=stream).status_code == 200
    assert asked(upstream) == [1, 0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(body={"error": {"message": "overloaded"}}),
        Answer(body={"output": [{"text": "the content policy of a maximum context length"}]}),
        Answer(body=b'{"choices":[{"message":{"content":"our usage policies', headers={}),
        Answer(body=b"<html>Content policy</html>", headers={"content-type": "text/html"}),
    ],
    ids=["other error", "no error", "half an answer", "page"],
)
def test_any_other_body_with_200_is_the_providers_fault_whatever_words_are_in_it(door, upstream, two, answer):
    upstream.always("p1", answer)
    assert door.chat(two).status_code == 200
    assert asked(upstream) == [1, 1, 0]


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(
    "message",
    [
        "Your account has been suspended for violating our usage policies",
        "Your organization has been disabled due to violation of our Usage Policy",
        "This API key was disabled after a review by our safety system",
    ],
)
def test_an_account_that_is_shut_for_a_policys_sake_is_no_refused_content(
    door, upstream, two, status, message
):
    upstream.always("p1", Answer(status=status, body={"error": {"message": message}}))
    assert door.chat(two).status_code == 200
    assert asked(upstream) == [1, 1, 0]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "1"),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", "1"),
        ("30s", "30"),
        ("1m30s", "90"),
        ("20, 20", "20"),
        ('"20"', "20"),
        ("20; comment=x", "20"),
    ],
)
def test_an_odd_retry_after_is_read_or_left_and_never_the_gateways_fault(door, upstream, two, value, seconds):
    limited = Answer(status=429, body={"error": {"message": "slow"}}, headers={"retry-after": value})
    for slug in ("p1", "p2"):
        upstream.always(slug, limited)
    answer = door.chat(two)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, seconds)


def test_dates_that_no_calendar_holds_are_no_wait():
    assert retry_after_seconds("Mon, 01 Jan 99999999999999999999 00:00:00 GMT") is None


@pytest.mark.parametrize("charset", ["utf-16", "GBK", '"gb18030"'])
def test_the_charset_of_an_error_is_believed(door, upstream, two, charset):
    body = json.dumps({"error": {"message": "参数错误"}}, ensure_ascii=False).encode(charset.strip('"'))
    kind = {"content-type": f"application/json; Charset={charset}"}
    upstream.always("p1", Answer(status=400, body=body, headers=kind))
    assert door.chat(two).json()["error"]["message"] == "参数错误"


def test_the_parameter_charset_may_be_written_in_any_case(door, upstream, two):
    body = json.dumps(completion("Größe"), ensure_ascii=False).encode("utf-16")
    upstream.always("p1", Answer(body=body, headers={"content-type": "application/json; Charset=UTF-16"}))
    assert door.chat(two).json()["choices"][0]["message"]["content"] == "Größe"
    assert asked(upstream) == [1, 0, 0]


def test_a_body_with_an_identity_transfer_coding_ends_with_its_connection(door, upstream, two):
    body = json.dumps(completion()).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: identity\r\n\r\n"
    upstream.always("p1", Answer(garbage=head + body))
    assert door.chat(two).content == body
    assert asked(upstream) == [1, 0, 0]


HALVES = [
    word.replace(b'"HALF"', half)
    for word, half in zip(
        events("HALF", "HALF", done=False, finish=False), (b'"\\ud83d"', b'"\\uDE00"'), strict=True
    )
]


def test_half_a_character_is_no_malformed_answer(door, upstream, two):
    body = json.dumps(completion("HALF")).encode().replace(b'"HALF"', b'"\\ud83d"')
    upstream.always("p1", Answer(body=body))
    assert door.chat(two).content == body
    assert asked(upstream) == [1, 0, 0]


@pytest.mark.parametrize("on_cut", ["error", "hold", "continue"])
def test_a_character_cut_between_two_events_passes(door, upstream, two, published, on_cut):
    from routing.models import ModelRoute

    route = ModelRoute.objects.get(name="gpt")
    route.on_cut = on_cut
    route.save()
    published()
    chunks = [*HALVES, *events("end")]
    upstream.always("p1", Answer(chunks=chunks))
    with door.stream(two) as answer:
        assert b"".join(answer.iter_bytes()) == b"".join(chunks)
    assert asked(upstream) == [1, 0, 0]


def test_a_backslash_before_what_looks_like_half_a_character_stays():
    assert without_halves(b'"\\\\ud83d \\ud83d"') == b'"\\\\ud83d \\ufffd"'


def test_a_held_stream_that_breaks_behind_its_last_word_is_not_bought_again(door, upstream, two, published):
    from routing.models import ModelRoute

    route = ModelRoute.objects.get(name="gpt")
    route.on_cut = "hold"
    route.save()
    published()
    chunks = events("whole")
    upstream.always("p1", Answer(chunks=chunks, cut="after_chunks"))
    with door.stream(two) as answer:
        assert b"".join(answer.iter_bytes()) == b"".join(chunks)
    assert asked(upstream) == [1, 0, 0]
