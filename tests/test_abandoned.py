"""Streams whose caller hangs up: cancelled or read to their end, and billed for what was produced."""

import time

import pytest

from monitoring.models import RequestLog
from routing.compiler import current_version
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_team
from tests.failing_over import route_over
from tests.live import Door, LiveGateway, until
from tests.upstream import USAGE, Answer, events

WORDS = [f"word{number} " for number in range(10)]
WHOLE = events(*WORDS, usage=True)
EXACT = USAGE["prompt_tokens"] * 1000 + USAGE["completion_tokens"] * 2000


@pytest.fixture
def key(upstream, published):
    def make(team=None, **provider):
        route_over(upstream, "gpt", "p1", provider=provider)
        _, plaintext = make_key(team=team)
        published()
        return plaintext

    return make


def hang_up(door, key, after=b"word0", **body):
    """Reads to the event that holds `after`, then closes; the row's request id."""
    name = f"gone-{time.monotonic_ns()}"
    with door.stream(key, headers={"x-request-id": name}, **body) as answer:
        told, chunks = b"", answer.iter_raw()
        while after not in told:
            told += next(chunks)
    return name


def row(name):
    return until(lambda: RequestLog.objects.filter(request_id=name).first(), "its row")


def test_a_cancelled_stream_is_billed_for_what_had_been_produced(door, upstream, key):
    upstream.always("p1", Answer(chunks=WHOLE, gap=0.1))
    plaintext = key()
    left = time.monotonic()
    found = row(hang_up(door, plaintext, after=b"word4"))
    until(lambda: upstream.hang_ups, "the connection to the provider is closed", 2)
    assert time.monotonic() - left < 2
    assert (found.outcome, found.abandoned, found.tokens_estimated) == ("client_gone", "cancelled", True)
    assert 5 <= found.output_tokens <= 10
    assert found.cost_nano_usd == found.input_tokens * 1000 + found.output_tokens * 2000
    assert found.price == "input 1, output 2"


def test_an_estimate_counts_text_not_only_events(door, upstream, key):
    """Some providers send many words in one event."""
    long = ["four " * 100, "more " * 100, "end"]
    upstream.always("p1", Answer(chunks=events(*long), gap=0.3))
    found = row(hang_up(door, key(), after=b"more"))
    assert 250 <= found.output_tokens <= 300


@pytest.mark.parametrize("on_cut", ["error", "continue"])
def test_a_drained_stream_is_billed_exactly(door, upstream, published, on_cut):
    route_over(upstream, "gpt", "p1", provider={"when_abandoned": "drain"}, on_cut=on_cut)
    _, plaintext = make_key()
    published()
    upstream.always("p1", Answer(chunks=WHOLE, gap=0.05))
    left = time.monotonic()
    found = row(hang_up(door, plaintext))
    assert (found.outcome, found.status, found.abandoned) == ("client_gone", 200, "drained")
    assert (found.input_tokens, found.output_tokens, found.tokens_estimated) == (24, 48, False)
    assert found.cost_nano_usd == EXACT
    assert found.total_ms < 400 < (time.monotonic() - left) * 1000, "the time is the caller's"
    assert not upstream.hang_ups


def test_either_transport_reads_on_after_a_hang_up(live_on, upstream, published):
    route_over(upstream, "gpt", "p1", provider={"when_abandoned": "drain"})
    _, plaintext = make_key()
    live_on.wait_for_version(current_version())
    upstream.always("p1", Answer(chunks=WHOLE, gap=0.05))
    found = row(hang_up(Door("fast_lane", live_on.url), plaintext))
    assert (found.abandoned, found.cost_nano_usd) == ("drained", EXACT)


def test_a_drained_stream_holds_its_limits_until_its_end(door, upstream, key):
    """The provider works on, for whom the limits are."""
    plaintext = key(team=make_team(parallel=1, budget_usd="1"), when_abandoned="drain")
    upstream.always("p1", Answer(chunks=WHOLE, gap=0.1))
    name = hang_up(door, plaintext)
    assert door.chat(plaintext).status_code == 429
    assert row(name).abandoned == "drained"
    upstream.always("p1", Answer())
    assert door.chat(plaintext).status_code == 200


def test_a_stream_that_breaks_while_it_is_drained_is_estimated(door, upstream, key):
    upstream.always("p1", Answer(chunks=WHOLE[:6], gap=0.05, cut="after_chunks", stall=0.05))
    found = row(hang_up(door, key(when_abandoned="drain")))
    assert (found.outcome, found.error_code, found.abandoned) == ("client_gone", "", "cut_off")
    assert found.tokens_estimated
    assert found.output_tokens >= 6


@pytest.mark.parametrize("left_at", [b'"finish_reason": "stop"', b"word9"])
def test_who_leaves_at_the_last_word_is_billed_exactly_too(door, upstream, key, left_at):
    """Callers stop reading at the finish_reason; the usage comes right behind it."""
    chunks = [*WHOLE[:9], WHOLE[9] + WHOLE[10], *WHOLE[11:]]  # the last word and the finish together
    upstream.always("p1", Answer(chunks=chunks, gap=0.05))
    found = row(hang_up(door, key(), after=left_at))
    assert (found.outcome, found.abandoned, found.tokens_estimated) == ("answered", "", False)
    assert found.cost_nano_usd == EXACT


def test_a_stream_that_was_not_begun_says_that_it_was_cancelled(live, upstream, key):
    import httpx

    upstream.always("p1", Answer(delay=5))
    door = Door("fast_lane", live.url)
    door.client.timeout = httpx.Timeout(0.4)
    with pytest.raises(httpx.ReadTimeout), door.stream(key(), headers={"x-request-id": "early"}):
        pass
    found = row("early")
    assert (found.outcome, found.status, found.abandoned) == ("client_gone", None, "cancelled")


@pytest.fixture
def own_gateway(tmp_path, transactional_db, upstream):
    started = []

    def start(**env):
        gateway = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"} | env).start()
        started.append(gateway)
        return gateway

    route_over(upstream, "gpt", "p1", provider={"when_abandoned": "drain"})
    yield start
    for gateway in started:
        gateway.stop()


@pytest.mark.parametrize(
    ("bound", "abandoned"),
    [
        ({"ABANDONED_SECONDS": "1"}, ["cut_off", "cut_off"]),
        ({"ABANDONED_BYTES": "1024"}, ["cut_off", "cut_off"]),
        ({"ABANDONED_AT_ONCE": "1"}, ["cancelled", "drained"]),
    ],
    ids=["seconds", "bytes", "at_once"],
)
def test_draining_has_bounds(own_gateway, upstream, bound, abandoned):
    _, key = make_key()
    door = Door("fast_lane", own_gateway(**bound).url)
    upstream.always("p1", Answer(chunks=WHOLE, gap=0.25))
    names = [hang_up(door, key) for _ in range(2)]
    rows = [row(name) for name in names]
    assert sorted(found.abandoned for found in rows) == abandoned
    assert all(found.tokens_estimated == (found.abandoned != "drained") for found in rows)
    assert all(found.outcome == "client_gone" for found in rows)


def test_a_stop_accounts_for_what_was_read_until_then(own_gateway, upstream):
    _, key = make_key()
    gateway = own_gateway(DRAIN_SECONDS="1")
    upstream.always("p1", Answer(chunks=WHOLE, gap=2))
    name = hang_up(Door("fast_lane", gateway.url), key)
    gateway.stop()
    gateway.manage("ship_journal")
    found = row(name)
    assert (found.outcome, found.abandoned, found.tokens_estimated) == ("client_gone", "cut_off", True)
