"""Rows keep a provider's own words about a failure, and nothing of what they repeat of the request."""

import json
import time

import pytest

from proxy.accounting.said import GONE, MOST_CHARACTERS, PIECE, SEARCHED_BYTES, VERIFIED_BYTES, shown
from tests.factories import make_key, make_provider, make_route, make_target
from tests.upstream import Answer

SECRET = "the patient's diagnosis is a very rare one"


def request(text, **options):
    return json.dumps({"messages": [{"role": "user", "content": text}]}, **options).encode()


def said(words, text=SECRET, keeps_content=False, **options):
    return shown(words, request(text, **options), keeps_content=keeps_content)


def test_words_that_repeat_nothing_stay_as_they_are():
    assert said("The model is overloaded: try again later.") == "The model is overloaded: try again later."


@pytest.mark.parametrize("place", range(12))
def test_a_piece_of_20_characters_of_the_request_is_gone_wherever_it_stands(place):
    piece = SECRET[5 : 5 + PIECE]
    assert said(f"{'-' * place}{piece}{'+' * place}") == f"{'-' * place}{GONE}{'+' * place}"


def test_a_shorter_piece_stays_else_each_word_would_be_gone():
    piece = SECRET[5 : 5 + PIECE - 1]
    assert said(f"<{piece}>") == f"<{piece}>"


def test_two_pieces_are_two_gaps():
    assert said(f"a: {SECRET[:21]} | b: {SECRET[20:]}!") == f"a: {GONE} | b: {GONE}!"


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "Zürich, Genève und Köln im Frühjahr",
        'a "quoted" \\ path\\to\\the\\file',
        "one\nline\tand the next one",
        "日本語のとても長いテキストがここにあります。",
    ],
)
def test_it_is_found_however_json_writes_it(text, ascii_only):
    assert said(f"invalid: <{text}>", text, ensure_ascii=ascii_only) == f"invalid: <{GONE}>"


def test_a_large_request_loses_rather_more():
    large = "x" * VERIFIED_BYTES + SECRET
    words = said(f"refused: {SECRET}, sorry", large)
    assert SECRET[:PIECE] not in words
    assert SECRET[-PIECE:] not in words
    assert GONE in words


def test_of_a_huge_request_nothing_is_looked_for_and_nothing_kept():
    assert shown("any words", b"x" * (SEARCHED_BYTES + 1), keeps_content=False) == GONE
    assert shown("any words", b"x" * (SEARCHED_BYTES + 1), keeps_content=True) == "any words"


def test_they_are_cut_at_500_characters():
    assert said("w" * 9000) == "w" * MOST_CHARACTERS


def test_a_route_that_keeps_content_keeps_them_whole():
    assert said(SECRET, keeps_content=True) == SECRET


def test_a_setting_drops_them(settings):
    settings.PROVIDER_WORDS = "drop"
    assert said("overloaded") == ""
    assert said("overloaded", keeps_content=True) == ""


def test_looking_takes_bounded_time():
    alike = ("ab" * PIECE * 1000)[:VERIFIED_BYTES]
    before = time.thread_time()
    assert said("ba" * 300, alike) == GONE
    assert time.thread_time() - before < 0.5


@pytest.fixture
def gpt(upstream, published):
    def make(**route):
        provider = make_provider(
            slug="p1", base_url=upstream.url("p1"), retries=0, api_key="credential-p1-01"
        )
        make_target(route=make_route(name="gpt", **route), provider=provider)
        _, key = make_key()
        published()
        return key

    return make


def test_the_row_has_them_for_each_attempt_without_the_credential_or_the_request(door, upstream, gpt, logged):
    words = f"Worker 7 crashed on '{SECRET}' with key credential-p1-01"
    upstream.always("p1", Answer(status=500, body={"error": {"message": words}}))
    answer = door.chat(gpt(), messages=[{"role": "user", "content": SECRET}])
    assert "Worker 7" not in answer.text
    result = logged(answer).attempt_trail[0]["result"]
    assert f"Worker 7 crashed on '{GONE}' with key [redacted]" in result


def test_a_plain_text_failure_is_in_the_row_too(door, upstream, gpt, logged):
    upstream.always(
        "p1", Answer(status=503, body=b"upstream connect error", headers={"content-type": "text/plain"})
    )
    assert "upstream connect error" in logged(door.chat(gpt())).attempt_trail[0]["result"]
