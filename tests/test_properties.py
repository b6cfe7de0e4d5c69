"""Properties that hold for every input: streams, the sliding minute, money, Retry-After."""

import dataclasses
import itertools
import json
import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fractions import Fraction

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from monitoring.models import RequestLog
from proxy.admission.window import BUCKET, MINUTE, SlidingWindow
from proxy.attempts.retry_after import LONGEST, retry_after_seconds
from proxy.metering.reported_usage import ReportedUsage
from proxy.metering.usage import (
    MILLION,
    NO_MORE,
    UNREAD,
    More,
    Usage,
    cost,
    estimate,
    priced_classes,
    worst_cost,
)
from proxy.sse import StreamReader
from routing.price import Price, Tier, price_from_text

EXAMPLES = settings(max_examples=150, deadline=None)

# Streams

counts = st.integers(0, 10**6)
usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts},
    optional={"prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": counts})},
)
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["data: [DONE]", '"finish_reason": "stop"', '"error"'])
)


def chunk(text, reason):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]}


events = st.one_of(
    st.builds(chunk, texts, st.sampled_from([None, None, None, "", "stop"])),
    st.builds(lambda usage: {"choices": [], "usage": usage}, st.one_of(st.none(), usages)),
    st.builds(lambda text: {"error": {"message": text}}, texts),
)
line_ends = st.sampled_from([b"\n", b"\r\n"])


@st.composite
def streams(draw):
    """Bytes of a stream: events, comments, and perhaps [DONE]; perhaps cut short."""
    parts = []
    for event in draw(st.lists(events, max_size=8)):
        end, space = draw(line_ends), draw(st.sampled_from([b"", b" ", b" "]))
        data = draw(st.sampled_from([json.dumps(event).encode()] * 15 + [b'{"choices": [']))
        parts.append(b"data:" + space + data + end + draw(line_ends))
        if draw(st.booleans()):
            parts.append(draw(st.sampled_from([b": [DONE]", b"event: x", b"id: 1", b""])) + draw(line_ends))
    if draw(st.booleans()):
        parts.append(b"data: [DONE]" + draw(line_ends) + b"\n")
    whole = b"".join(parts)
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.booleans()) else whole


def read(pieces):
    reader = StreamReader()
    for piece in pieces:
        reader.feed(piece)
        if reader.malformed:
            return "malformed"
    reader.end()
    return (reader.usage, reader.done, reader.finished, reader.failed, reader.whole, reader.size)


@EXAMPLES
@given(streams(), st.lists(st.integers(0, 2000), max_size=12))
def test_a_stream_reads_the_same_wherever_it_is_cut(stream, cuts):
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert b"".join(pieces) == stream
    assert read(pieces) == read([stream])
    assert read([bytes([byte]) for byte in stream]) == read([stream])


@EXAMPLES
@given(st.lists(events, max_size=4), st.lists(events, max_size=2), st.sampled_from([b" ", b""]))
def test_what_stands_before_a_malformed_event_is_good(before, after, space):
    good, rest = (
        b"".join(b"data:" + space + json.dumps(event).encode() + b"\n\n" for event in some)
        for some in (before, after)
    )
    reader = StreamReader()
    assert reader.feed(good + b'data: {"choices": [\n\n' + rest) == len(good)
    assert reader.malformed
    assert not reader.whole


@EXAMPLES
@given(st.lists(texts, min_size=1, max_size=6))
def test_no_text_of_an_answer_looks_like_its_end(words):
    stream = b"".join(b"data: " + json.dumps(chunk(word, None)).encode() + b"\n\n" for word in words)
    usage, done, finished, failed, whole, size = read([stream])
    assert (usage, done, finished, failed, whole) == (None, False, False, False, False)
    assert size >= 4 * len(words)


# The sliding minute

moments = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8)), max_size=60)


@EXAMPLES
@given(moments, st.integers(1, 20))
def test_no_minute_has_more_than_the_limit(steps, limit):
    window, now = SlidingWindow(), 1000.0
    admitted = []
    for pause, amount in steps:
        now += pause
        wait = window.wait_for_tokens(amount, limit, now)
        assert 0 <= wait <= MINUTE + BUCKET + 1e-9
        if wait:
            continue
        window.add(1, amount, now)
        admitted.append((now, amount))
        assert sum(size for moment, size in admitted if moment > now - MINUTE) <= limit
    assert window.tokens <= limit


@EXAMPLES
@given(moments, st.integers(1, 20))
def test_requests_are_limited_as_tokens_of_one_each(steps, limit):
    window, now = SlidingWindow(), 1000.0
    for pause, amount in steps:
        now += pause
        wait = window.wait_for_request(limit, now)
        assert wait == window.wait_for_tokens(1, limit, now)
        if not wait:
            window.correct(window.add(1, amount, now), 1 - amount, now)
        assert window.requests == window.tokens <= limit


@EXAMPLES
@given(moments, st.integers(1, 20))
@example([(0.0, 1), (0.1, 1)], 1)
def test_the_wait_is_long_enough_and_never_needlessly_long(steps, limit):
    window, now = SlidingWindow(), 1000.0
    admitted = []
    for pause, amount in steps:
        now += pause
        wait = window.wait_for_tokens(amount, limit, now)
        if wait and amount <= limit:
            # So long the minute really is full, but for the one bucket that may count too long ...
            then = now + wait - 2 * BUCKET - 1e-6
            if then > now:
                full = sum(size for moment, size in admitted if moment > then - MINUTE)
                assert full + amount > limit
            # ... and afterwards it isn't.
            now += wait + 1e-6
            assert window.wait_for_tokens(amount, limit, now) == 0
        if amount <= limit:
            window.add(1, amount, now)
            admitted.append((now, amount))


@EXAMPLES
@given(moments, st.data())
def test_corrected_amounts_count_as_corrected(steps, data):
    window, now = SlidingWindow(), 0.0
    live = []
    for pause, amount in steps:
        now += pause
        bucket = window.add(1, amount, now)
        real = data.draw(st.integers(0, 8))
        later = now + data.draw(st.floats(0, 100))
        window.correct(bucket, real - amount, later)
        now = later
        live.append((bucket, bucket.start, real))
        window.advance(now)
        assert window.tokens >= 0
        kept = [real for _, start, real in live if start + BUCKET + MINUTE > now]
        assert (window.requests, window.tokens) == (len(kept), sum(kept))
    window.advance(now + 2 * MINUTE)
    assert window.requests == window.tokens == 0


# Money

prices = st.integers(0, 10**12)  # nano-USD per million tokens: up to 1,000 USD
PARTS = (
    "cached_input",
    "cache_write",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)
flat_price = st.builds(
    lambda i, o, r, parts: Price(input=i, output=o, request=r, **dict(zip(PARTS, parts, strict=True))),
    prices,
    prices,
    st.integers(0, 10**9),
    st.tuples(*(st.none() | prices for _ in PARTS)),
)
steps = st.lists(st.integers(0, 2 * 10**6), max_size=3, unique=True)
price_of = st.builds(
    lambda base, above, others: dataclasses.replace(
        base, tiers=tuple(map(Tier, sorted(above), itertools.cycle(others)))
    ),
    flat_price,
    steps,
    st.lists(flat_price, min_size=1, max_size=3),
)
part = st.integers(0, 2 * 10**6)
more = st.just(NO_MORE) | st.builds(More, part, part, part, part, part, part)
used = st.builds(lambda i, o, c, r, m: Usage(i, o, c, r, m), counts, counts, part, part, more)


@EXAMPLES
@given(used, price_of)
def test_each_token_is_priced_once_and_the_cost_is_rounded_once(usage, price):
    tier = price.at(usage.input)
    classes = priced_classes(usage, tier)
    given_classes = ("input", "cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input")
    assert all(tokens >= 0 for tokens, _ in classes.values())
    assert sum(classes[name][0] for name in given_classes) == usage.input
    assert sum(tokens for tokens, _ in classes.values()) == usage.total
    exact = Fraction(sum(tokens * nano for tokens, nano in classes.values()), MILLION)
    assert cost(usage, price) == math.floor(exact + Fraction(1, 2)) + tier.request
    assert isinstance(cost(usage, price), int)


@EXAMPLES
@given(used, price_of, part, part)
def test_no_call_costs_more_than_was_reserved_for_it(usage, price, spare_input, spare_output):
    reserved = worst_cost(usage.input + spare_input, usage.output + spare_output, price)
    assert cost(usage, price) <= reserved


@EXAMPLES
@given(flat_price)
def test_a_price_is_the_same_after_it_was_written_down(price):
    assert price_from_text(price.text) == price
    assert len(price.text) <= RequestLog._meta.get_field("price").max_length


@EXAMPLES
@given(used, used)
def test_usage_adds_up_and_down(one, other):
    assert one + other - other == one


plain = st.builds(lambda i, o, c: Usage(input=i, output=o, cached=c), counts, counts, part)


@EXAMPLES
@given(plain, flat_price)
def test_cached_tokens_are_never_priced_twice(usage, price):
    assume(price.cached_input is None or price.cached_input <= price.input)
    uncached = Usage(input=usage.input, output=usage.output)
    assert cost(usage, price) <= cost(uncached, price)
    if price.cached_input is None:
        assert cost(usage, price) == cost(uncached, price)
    free = dataclasses.replace(price, cached_input=0)
    assert cost(usage, free) >= cost(Usage(input=0, output=usage.output), price)


@EXAMPLES
@given(plain, price_of, counts)
def test_more_tokens_never_cost_less(usage, price, more):
    bigger = Usage(input=usage.input, output=usage.output + more, cached=usage.cached)
    assert cost(bigger, price) >= cost(usage, price)


@EXAMPLES
@given(st.none() | st.integers(-(10**40), 10**40), st.none() | st.integers(-(10**40), 10**40))
def test_reported_tokens_are_credible_or_none(prompt, completion):
    usage = ReportedUsage(prompt_tokens=prompt, completion_tokens=completion).tokens()
    if usage is not None:
        told = [UNREAD if count is None else count for count in (prompt, completion)]
        assert [usage.input, usage.output] == told
        assert UNREAD <= usage.input <= 10**9
        assert UNREAD <= usage.output <= 10**9
        assert min(usage.completed(estimate(100, 100)).input, usage.completed(estimate(100, 100)).output) >= 0
    else:
        wrong = [n for n in (prompt, completion) if n is not None and not 0 <= n <= 10**9]
        assert wrong or (prompt is None and completion is None)


@EXAMPLES
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_estimate_is_marked_and_never_nothing(request_bytes, answer_bytes):
    usage = estimate(request_bytes, answer_bytes)
    assert usage.estimated
    assert usage.input >= 1
    assert usage.total >= (request_bytes + answer_bytes) // 4


# Retry-After


@EXAMPLES
@given(st.text(max_size=40))
@example("nan")
@example("inf")
@example("-1")
@example("1e400")
@example("Mon, 01 Jan 99999 00:00:00 GMT")
@example("Sun, 31 Dec 9999 23:59:59 -2300")
@example("Fri, 31 Feb 2026 00:00:00 GMT")
def test_any_header_gives_seconds_in_range_or_none(value):
    seconds = retry_after_seconds(value)
    assert seconds is None or 0 <= seconds <= LONGEST


@EXAMPLES
@given(st.integers(0, 10**6))
def test_seconds_are_read_up_to_the_longest(seconds):
    assert retry_after_seconds(str(seconds)) == min(seconds, LONGEST)


@EXAMPLES
@given(st.integers(-(10**6), 10**6))
def test_dates_are_read_from_now(offset):
    moment = datetime.now(UTC) + timedelta(seconds=offset)
    found = retry_after_seconds(format_datetime(moment, usegmt=True))
    assert found is not None
    assert abs(found - min(max(offset, 0), LONGEST)) < 5


def test_no_header_gives_none():
    assert retry_after_seconds(None) is None
    assert retry_after_seconds("") is None
