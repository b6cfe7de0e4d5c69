"""Streams that break: continued by another target, held back until whole, or ended with an error."""

import json
import time

import openai
import pytest

from tests.factories import make_key, make_team
from tests.failing_over import part, route_over, stream, tokens
from tests.live import until
from tests.upstream import Answer

WHOLE = "".join(tokens(0, 60))
BEGUN = part(tokens(0, 40), id="one", end=False)
MALFORMED = b'data: {"id": "one", "choices": [{"delta": \n\n'
CUTS = {
    "closed": Answer(chunks=BEGUN, cut="after_chunks", stall=0.05),
    "reset": Answer(chunks=BEGUN, cut="after_chunks", reset=True, stall=0.05),
    "stalled": Answer(chunks=BEGUN, stall=5),
    "malformed": Answer(chunks=[*BEGUN, MALFORMED, *part(tokens(40, 60), id="one", role=False)]),
    "no_end": Answer(chunks=BEGUN),
    "half_an_event": Answer(chunks=[*BEGUN, part(["x"], id="one")[1][:60]], cut="after_chunks", stall=0.05),
    "error_event": Answer(chunks=[*BEGUN, b'data: {"error": {"message": "overloaded"}}\n\n']),
}
USAGE = {"prompt_tokens": 80, "completion_tokens": 20, "total_tokens": 100}
REST = Answer(chunks=part(tokens(40, 60), id="two", usage=USAGE))
ANEW = Answer(chunks=part(tokens(0, 60), id="two", usage=USAGE))


@pytest.fixture
def gpt(upstream, published):
    """Makes the route gpt over some providers and a key; returns the plaintext."""

    def make(*slugs, key=None, **values):
        provider = {"continues": "plain"} | values.pop("provider", {})
        values = {"stall_timeout": 0.4, "provider": provider} | values
        route_over(upstream, "gpt", *(slugs or ("p1", "p2")), **values)
        _, plaintext = make_key(**key or {})
        published()
        return plaintext

    return make


def is_whole(told):
    """The whole answer, exactly once, as one stream."""
    assert told.text == WHOLE
    assert (len(told.ids), told.roles, told.finished) == (1, ["assistant"], ["stop"])
    assert (told.errors, told.dones) == ([], 1)


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_cut_stream_is_continued_by_the_next_target(door, upstream, gpt, cut):
    key = gpt(on_cut="continue")
    upstream.always("p1", cut)
    upstream.always("p2", REST)
    told = stream(door, key)
    is_whole(told)
    assert told.ids == {"one"}
    (asked,) = upstream.calls("p2")
    assert asked.json["messages"][0] == {"role": "user", "content": "Hello"}
    assert asked.json["messages"][1:] == [{"role": "assistant", "content": "".join(tokens(0, 40))}]
    assert asked.json["model"] == "p2-model"
    assert len(upstream.calls("p1")) == 1
    row = told.row
    assert (row.outcome, row.status, row.attempts, row.provider) == ("answered", 200, 2, "p2")
    first, second = row.attempt_trail[:2]
    assert first["result"].startswith("200, then: p1: ")
    assert second["result"] == "200"


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_held_stream_is_started_anew_by_the_next_target(door, upstream, gpt, cut):
    key = gpt(on_cut="hold")
    upstream.always("p1", cut)
    upstream.always("p2", ANEW)
    told = stream(door, key)
    is_whole(told)
    assert told.ids == {"two"}
    assert len(upstream.calls("p1")) == len(upstream.calls("p2")) == 1
    assert len(upstream.calls("p2")[0].json["messages"]) == 1
    row = told.row
    assert (row.outcome, row.provider, row.input_tokens, row.output_tokens) == ("answered", "p2", 80, 20)


@pytest.mark.parametrize("on_cut", ["error", "continue"])
@pytest.mark.parametrize("cut", ["reset", "stalled", "malformed", "no_end"])
def test_where_nobody_continues_there_is_a_clear_error_and_no_done(door, upstream, gpt, cut, on_cut):
    """By default; and with `continue` where the next target refuses: its refusal masks nothing."""
    key = gpt(on_cut=on_cut)
    upstream.always("p1", CUTS[cut])
    upstream.always("p2", Answer(status=400, body={"error": {"message": "no prefixes here"}}))
    told = stream(door, key)
    assert told.text == "".join(tokens(0, 40))
    assert (told.dones, told.finished) == (0, [])
    (error,) = told.errors
    code = "upstream_timeout" if cut == "stalled" else "upstream_error"
    assert (error["code"], error["provider"]) == (code, "p1")
    assert "prefixes" not in json.dumps(error)
    assert len(upstream.calls("p1")) == 1
    assert len(upstream.calls("p2")) == (on_cut == "continue")
    row = told.row
    assert (row.outcome, row.error_code, row.tokens_estimated) == ("upstream_broken", code, True)
    assert row.provider == "p1"


def test_a_held_stream_that_nobody_finishes_is_a_json_error(door, upstream, gpt):
    key = gpt(on_cut="hold")
    upstream.always("p1", CUTS["closed"])
    upstream.always("p2", CUTS["no_end"])
    answer = door.chat(key, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_error")
    assert "t0001" not in answer.text
    assert (len(upstream.calls("p1")), len(upstream.calls("p2"))) == (1, 1)


def test_a_continued_stream_may_be_cut_again(door, upstream, gpt):
    key = gpt("p1", "p2", "p3", on_cut="continue")
    upstream.always("p1", Answer(chunks=part(tokens(0, 20), id="one", end=False)))
    upstream.always(
        "p2", Answer(chunks=part(tokens(20, 40), id="two", end=False), cut="after_chunks", stall=0.05)
    )
    upstream.always("p3", Answer(chunks=part(tokens(40, 60), id="three")))
    told = stream(door, key)
    is_whole(told)
    assert upstream.calls("p3")[0].json["messages"][-1]["content"] == "".join(tokens(0, 40))
    assert [len(upstream.calls(slug)) for slug in ("p1", "p2", "p3")] == [1, 1, 1]


def test_max_attempts_bounds_continuations_too(door, upstream, gpt):
    key = gpt("p1", "p2", "p3", on_cut="continue", max_attempts=2)
    for slug in ("p1", "p2", "p3"):
        upstream.always(slug, Answer(chunks=part(tokens(0, 20), id=slug, end=False)))
    told = stream(door, key)
    assert len(told.errors) == 1
    assert [len(upstream.calls(slug)) for slug in ("p1", "p2", "p3")] == [1, 1, 0]


def test_only_providers_that_continue_are_asked_to(door, upstream, gpt):
    key = gpt(on_cut="continue", provider={"continues": ""})
    upstream.always("p1", CUTS["closed"])
    told = stream(door, key)
    assert (len(told.errors), told.dones, upstream.calls("p2")) == (1, 0, [])


def test_a_provider_that_wants_a_flag_gets_it_and_less_to_answer(door, upstream, gpt):
    key = gpt(on_cut="continue", provider={"continues": "flag"})
    upstream.always("p1", CUTS["closed"])
    upstream.always("p2", REST)
    is_whole(stream(door, key, max_tokens=100))
    sent = upstream.calls("p2")[0].json
    assert sent["messages"][-1]["prefix"] is True
    assert sent["max_tokens"] == 100 - len("".join(tokens(0, 40))) // 4


def test_a_stream_cut_before_its_first_word_starts_anew(door, upstream, gpt):
    key = gpt(on_cut="continue")
    upstream.always("p1", Answer(chunks=BEGUN[:1], cut="after_chunks", stall=0.05))
    upstream.always("p2", ANEW)
    is_whole(stream(door, key))
    assert len(upstream.calls("p2")[0].json["messages"]) == 1


def test_a_stream_cut_after_its_last_word_is_not_continued(door, upstream, gpt):
    key = gpt(on_cut="continue")
    chunks = part(tokens(0, 60), id="one")[:-1]
    upstream.always("p1", Answer(chunks=chunks, cut="after_chunks", reset=True, stall=0.05))
    told = stream(door, key)
    is_whole(told)
    assert upstream.calls("p2") == []
    assert told.row.outcome == "answered"


def test_an_end_without_a_blank_line_is_an_end(door, upstream, gpt):
    key = gpt(on_cut="continue")
    *chunks, done = part(tokens(0, 60), id="one")
    upstream.always("p1", Answer(chunks=[*chunks, done.rstrip()]))
    is_whole(stream(door, key))
    assert upstream.calls("p2") == []


CALL = {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]}
TOOL = (
    b"data: "
    + json.dumps({"id": "one", "choices": [{"index": 0, "delta": CALL, "finish_reason": None}]}).encode()
)


@pytest.mark.parametrize(
    ("chunks", "body"),
    [([*BEGUN, TOOL + b"\n\n"], {}), (BEGUN, {"n": 2})],
    ids=["tool_calls", "several_choices"],
)
def test_what_is_not_one_text_is_not_continued(door, upstream, gpt, chunks, body):
    key = gpt(on_cut="continue")
    upstream.always("p1", Answer(chunks=chunks, cut="after_chunks", stall=0.05))
    told = stream(door, key, **body)
    assert (len(told.errors), told.dones, upstream.calls("p2")) == (1, 0, [])
    assert told.row.outcome == "upstream_broken"


def test_the_usage_of_all_parts_adds_up_and_is_billed(door, upstream, gpt):
    """To the caller the prefix is a part of the answer; the bill has what both providers were given."""
    key = gpt(on_cut="continue")
    upstream.always("p1", CUTS["closed"])
    upstream.always("p2", REST)
    told = stream(door, key, stream_options={"include_usage": True})
    is_whole(told)
    prefix = len("".join(tokens(0, 40))) // 4
    assert told.usage["completion_tokens"] == 20 + prefix
    assert told.usage["prompt_tokens"] == 80 - prefix
    assert told.usage["total_tokens"] == 100
    row = told.row
    assert row.tokens_estimated
    assert row.output_tokens == 20 + prefix
    assert row.input_tokens > 80
    assert row.cost_nano_usd == 1000 * row.input_tokens + 2000 * row.output_tokens


def test_a_budget_and_its_holds_are_exact_after_a_continued_stream(door, upstream, gpt):
    team = make_team(budget_usd="1", budget_period="total", parallel=1)
    key = gpt(on_cut="continue", key={"team": team}, target={"parallel": 1})
    for _ in range(3):  # a hold that leaks would refuse the second
        upstream.script("p1", CUTS["closed"])
        upstream.script("p2", REST)
        is_whole(stream(door, key))


def test_a_client_that_hangs_up_while_its_stream_is_continued_is_noted(door, upstream, gpt):
    from monitoring.models import RequestLog

    key = gpt(on_cut="continue")
    upstream.always("p1", CUTS["closed"])
    upstream.always("p2", Answer(delay=5))
    with door.stream(key, headers={"x-request-id": f"gone-{door.name}"}) as answer:
        chunks = answer.iter_raw()  # kept: a generator that is dropped closes the connection
        while b"t0039" not in next(chunks):
            pass
        until(lambda: upstream.calls("p2"), "p2 is asked")
    row = until(lambda: RequestLog.objects.filter(request_id=f"gone-{door.name}").first(), "its row")
    assert (row.outcome, row.attempts) == ("client_gone", 2)
    until(lambda: upstream.hang_ups, "p2's connection is closed", 1)


@pytest.mark.parametrize("on_cut", ["continue", "hold"])
def test_the_official_client_reads_such_streams(live, upstream, gpt, on_cut):
    key = gpt(on_cut=on_cut)
    upstream.always("p1", CUTS["closed"])
    upstream.always("p2", REST if on_cut == "continue" else ANEW)
    client = openai.OpenAI(api_key=key, base_url=f"{live.url}/v1", max_retries=0)
    chunks = list(
        client.chat.completions.create(
            model="gpt",
            messages=[{"role": "user", "content": "Hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == WHOLE
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage.completion_tokens >= 20


def test_the_official_client_raises_for_a_truncated_stream(live, upstream, gpt):
    key = gpt()
    upstream.always("p1", CUTS["closed"])
    client = openai.OpenAI(api_key=key, base_url=f"{live.url}/v1", max_retries=0)
    messages = [{"role": "user", "content": "Hello"}]
    with pytest.raises(openai.APIError, match="the answer is incomplete"):
        list(client.chat.completions.create(model="gpt", messages=messages, stream=True))


def test_a_stall_is_noticed_in_time(door, upstream, gpt):
    key = gpt(on_cut="continue", stall_timeout=0.3)
    upstream.always("p1", CUTS["stalled"])
    upstream.always("p2", REST)
    started = time.monotonic()
    is_whole(stream(door, key))
    assert 0.25 <= time.monotonic() - started < 1.5
    until(lambda: upstream.hang_ups, "the stalled connection is closed", 1)
