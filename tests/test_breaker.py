"""Targets that fail are left out, tried by one request after the cooldown, and come back."""

import os
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as some

from monitoring.models import RequestLog
from proxy.attempts.retry_after import told_wait
from proxy.breaker.registry import Board
from proxy.breaker.state import Standing
from proxy.breaker.window import ErrorWindow
from proxy.errors import UpstreamError, UpstreamRateLimited, UpstreamRejected
from routing.models import GatewaySettings
from routing.table import BreakerRules
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ask, free_port, until
from tests.upstream import Answer, FakeUpstream, events

LATE = 0.7  # seconds that a busy machine may take between two steps
DOWN_SECONDS = float(os.environ.get("DOWN_SECONDS", "2.5"))


class Clock:
    def __init__(self):
        self.now = 5000.0

    def __call__(self):
        return self.now


class Rig:
    """One target's breaker under a clock that the test moves."""

    def __init__(self, **rules):
        self.clock = Clock()
        self.board = Board(self.clock)
        self.board.rules = BreakerRules(**rules)
        self.state = self.board.of(1)

    def trial(self, **options):
        return self.board.begin(1, stream=False, **options)

    def succeed(self, times=1):
        for _ in range(times):
            trial = self.trial()
            trial.answered()
            trial.end()

    def fail(self, times=1, error=None, **options):
        for _ in range(times):
            trial = self.trial(**options)
            trial.failed(error or UpstreamError("broken"))
            trial.end()

    def limit(self, told=None, **options):
        error = UpstreamRateLimited("slow down")
        error.told_wait = told
        self.fail(1, error, **options)

    @property
    def standing(self):
        return self.state.standing(self.clock.now)

    def wait(self, seconds):
        self.clock.now += seconds


def test_three_failures_in_a_row_open_it():
    rig = Rig()
    rig.fail(2)
    rig.succeed()
    rig.fail(2)
    assert rig.standing is Standing.READY
    rig.fail()
    assert (rig.standing, rig.state.why) == (Standing.BROKEN, "3 failures in a row")
    assert rig.state.wait(rig.clock.now) == 30
    assert rig.state.last_error == "broken"


def test_an_error_rate_opens_it_once_there_are_enough_requests():
    rig = Rig(failures=1000)
    for _ in range(9):
        rig.fail()
        rig.succeed()
    rig.fail()
    assert rig.standing is Standing.READY  # 10 of 19
    rig.fail()
    assert (rig.standing, rig.state.why) == (
        Standing.BROKEN,
        "11 of 20 requests failed in the last minute",
    )


def test_failures_older_than_a_minute_do_not_count():
    rig = Rig(failures=1000, min_requests=4)
    rig.fail(3)
    rig.wait(61)
    rig.fail()
    assert rig.standing is Standing.READY


def test_after_the_cooldown_one_request_at_a_time_tries_it_and_success_closes_it():
    rig = Rig(cooldown=10)
    rig.fail(3)
    rig.wait(9.9)
    assert rig.standing is Standing.BROKEN
    rig.wait(0.2)
    assert rig.standing is Standing.PROBE
    probe = rig.trial()
    assert rig.standing is Standing.PROBING
    probe.answered()
    assert rig.standing is Standing.READY
    rig.fail(2)
    assert rig.standing is Standing.READY  # the failures before it closed are forgotten


def test_a_failed_probe_opens_it_for_another_cooldown():
    rig = Rig(cooldown=10)
    rig.fail(3)
    rig.wait(10)
    rig.fail()
    assert (rig.standing, rig.state.why) == (Standing.BROKEN, "the trial request failed")
    assert rig.state.wait(rig.clock.now) == 10


def test_a_probe_that_nobody_waited_for_makes_room_for_the_next():
    rig = Rig(cooldown=10)
    rig.fail(3)
    rig.wait(10)
    rig.trial().end()
    assert rig.standing is Standing.PROBE


def test_failures_while_it_is_open_do_not_keep_it_open():
    rig = Rig(cooldown=10)
    rig.fail(3)
    rig.wait(5)
    rig.fail(5)
    rig.wait(5)
    assert rig.standing is Standing.PROBE


def test_an_answer_to_a_request_from_before_does_not_close_it():
    rig = Rig()
    early = rig.trial()
    rig.wait(1)
    rig.fail(3)
    early.answered()
    assert rig.standing is Standing.BROKEN
    rig.succeed()  # tried as a last resort
    assert rig.standing is Standing.READY


def test_a_failure_of_a_request_from_before_it_was_mended_does_not_count():
    rig = Rig(cooldown=10)
    early = [rig.trial() for _ in range(3)]
    rig.fail(3)
    rig.wait(10)
    rig.succeed()
    for trial in early:
        trial.failed(UpstreamError("late"))
    assert rig.standing is Standing.READY


def test_the_callers_own_fault_is_no_failure():
    rig = Rig()
    rejected = UpstreamRejected("bad", status=400, provider="p")
    rig.fail(9, rejected)
    assert rig.standing is Standing.READY
    assert (rig.state.window.requests, rig.state.window.failures) == (9, 0)


def test_a_429_pauses_for_as_long_as_the_provider_said():
    rig = Rig()
    rig.limit(told=7.5)
    assert (rig.standing, rig.state.wait(rig.clock.now)) == (Standing.COOLING, 7.5)
    rig.limit(told=2)
    assert rig.state.wait(rig.clock.now) == 7.5  # a shorter one doesn't end it sooner
    rig.wait(7.5)
    assert rig.standing is Standing.READY


def test_a_429_that_names_no_time_pauses_for_longer_each_time_up_to_the_cooldown():
    rig = Rig(cooldown=5)
    waits = []
    for _ in range(5):
        rig.limit()
        waits.append(rig.state.wait(rig.clock.now))
        rig.wait(waits[-1])
    assert waits == [1, 2, 4, 5, 5]
    rig.succeed()
    rig.limit()
    assert rig.state.wait(rig.clock.now) == 1


def test_a_429_of_the_callers_own_account_pauses_nobody():
    rig = Rig()
    rig.limit(told=60, own_key=True)
    assert rig.standing is Standing.READY


def test_switched_off_it_never_opens():
    rig = Rig(enabled=False)
    rig.fail(50)
    rig.limit(told=60)
    assert rig.standing is Standing.READY


def test_in_flight_counts_back_once_however_often_a_trial_ends():
    rig = Rig()
    trial = rig.trial()
    assert rig.state.in_flight == 1
    trial.end()
    trial.end()
    assert rig.state.in_flight == 0


@given(
    some.lists(
        some.tuples(some.sampled_from(["ok", "fail", "limit", "start", "drop"]), some.floats(0, 20)),
        max_size=60,
    )
)
def test_whatever_happens_it_can_be_tried_again_within_one_cooldown(steps):
    rig = Rig(cooldown=10)
    running = []
    for what, pause in steps:
        rig.wait(pause)
        if what == "ok":
            rig.succeed()
        elif what == "fail":
            rig.fail()
        elif what == "limit":
            rig.limit()
        elif what == "start":
            running.append(rig.trial())
        elif running:
            running.pop().end()
    for trial in running:
        trial.end()
    assert rig.state.in_flight == 0
    rig.wait(10.001)
    assert rig.standing in (Standing.READY, Standing.PROBE)
    rig.succeed()
    assert rig.standing is Standing.READY


@given(some.lists(some.tuples(some.floats(0, 40), some.booleans()), max_size=80))
def test_the_window_counts_the_last_minute(steps):
    window, now, added = ErrorWindow(), 0.0, []
    for pause, failed in steps:
        now += pause
        window.add(now, failed=failed)
        added.append((now, failed))
        assert window.counts(now) == (window.requests, window.failures)
        young = [failure for at, failure in added if now - at < 55]
        kept = [failure for at, failure in added if now - at < 60]
        assert len(young) <= window.requests <= len(kept)
        assert sum(young) <= window.failures <= sum(kept)
    assert window.counts(now + 61) == (0, 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "99999"}, 3600),
        ({"retry-after": "2", "x-ratelimit-reset-requests": "9s"}, 2),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3600),
        ({"x-ratelimit-reset-tokens": "12.5"}, 12.5),
        ({"x-ratelimit-reset-requests": "8s", "x-ratelimit-reset-tokens": "2s"}, 2),
        (
            {
                "x-ratelimit-reset-requests": "8s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "2s",
                "x-ratelimit-remaining-tokens": "100",
            },
            8,
        ),
        ({"x-ratelimit-reset-requests": "1x"}, None),
    ],
)
def test_what_a_provider_says_about_waiting(headers, seconds):
    assert told_wait(headers.get) == seconds


# Through both doors


@pytest.fixture
def cooldown():
    """Short, so that tests needn't wait for long."""
    GatewaySettings.objects.create(pk=1, cooldown_seconds=1.0)
    return 1.0


def two_providers(upstream, first_priority=1, **values):
    """a is tried before b."""
    route = make_route(name="gpt", strategy="ordered")
    options = {"retries": 0, "retry_delay": 0.01, "read_timeout": 0.4, "health_check_enabled": False} | values
    for priority, slug in ((first_priority, "a"), (first_priority + 1, "b")):
        provider = make_provider(slug=slug, base_url=upstream.url(slug), **options)
        make_target(route=route, provider=provider, upstream_model=slug, priority=priority)
    return make_key(name="app")[1]


def test_a_broken_target_is_left_out_and_back_within_one_cooldown(door, upstream, cooldown, published):
    key = two_providers(upstream)
    published()
    upstream.always("a", Answer(status=500))
    for _ in range(10):
        assert door.chat(key).headers["x-proxy-provider"] == "b"
    assert len(upstream.calls("a")) == 3
    time.sleep(cooldown)
    door.chat(key)
    door.chat(key)
    assert len(upstream.calls("a")) == 4  # one request tried it, and opened it again
    upstream.always("a", Answer())
    mended = time.monotonic()
    until(lambda: door.chat(key).headers["x-proxy-provider"] == "a", "a serves again")
    assert time.monotonic() - mended < cooldown + LATE
    assert {door.chat(key).headers["x-proxy-provider"] for _ in range(5)} == {"a"}


def test_half_open_only_one_request_at_a_time_tries_it(door, upstream, cooldown, published):
    key = two_providers(upstream, read_timeout=10)
    published()
    upstream.always("a", Answer(status=500))
    for _ in range(3):
        door.chat(key)
    upstream.always("a", Answer(delay=1.5))  # all have asked by then
    time.sleep(cooldown)
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: door.chat(key), range(10)))
    assert Counter(answer.headers["x-proxy-provider"] for answer in answers) == {"b": 9, "a": 1}


def test_the_last_target_is_tried_even_while_its_circuit_is_open(door, upstream, published):
    make_target(
        route=make_route(name="gpt"),
        provider=make_provider(slug="a", base_url=upstream.url("a"), retries=0),
    )
    _, key = make_key()
    published()
    upstream.always("a", Answer(status=500))
    for _ in range(5):
        assert door.chat(key).status_code == 502
    assert len(upstream.calls("a")) == 5
    upstream.always("a", Answer())
    assert door.chat(key).status_code == 200


def test_targets_with_open_circuits_are_tried_one_after_the_other(door, upstream, published):
    key = two_providers(upstream)
    published()
    for slug in ("a", "b"):
        upstream.always(slug, Answer(status=500))
    for _ in range(3):
        assert door.chat(key).status_code == 502
    upstream.always("a", Answer())
    assert door.chat(key).headers["x-proxy-provider"] == "a"


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"retry-after": "1"}, 1.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "600ms"}, 0.6),
    ],
    ids=["retry_after", "reset_headers"],
)
def test_a_429_pauses_a_target_for_as_long_as_it_asked_for(door, upstream, published, headers, pause):
    """As the providers see it; to the moment: the tests above, whose clock stands still."""
    key = two_providers(upstream)
    published()
    upstream.script("a", Answer(status=429, headers=headers))
    served = []

    def is_back():
        served.append(door.chat(key).headers["x-proxy-provider"])
        return served[-1] == "a"

    until(is_back, "a serves again")
    assert set(served[:-1]) == {"b"}
    limited, back = (seen.at for seen in upstream.calls("a"))
    assert back - limited >= pause
    assert not [seen for seen in upstream.calls("b") if seen.at > limited + pause + LATE]


def test_where_all_are_rate_limited_the_caller_is_told_when_to_come_back(door, upstream, published):
    key = two_providers(upstream)
    published()
    upstream.always("a", Answer(status=429, headers={"retry-after": "30"}))
    upstream.always("b", Answer(status=429, headers={"retry-after": "20"}))
    door.chat(key)
    calls = len(upstream.calls("a")), len(upstream.calls("b"))
    answer = door.chat(key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "upstream_rate_limited")
    assert 18 <= int(answer.headers["retry-after"]) <= 20
    assert (len(upstream.calls("a")), len(upstream.calls("b"))) == calls


def test_a_limited_account_does_not_stop_callers_with_their_own(door, upstream, published):
    route = make_route(name="gpt")
    provider = make_provider(slug="a", base_url=upstream.url("a"), allow_caller_key=True, retries=0)
    make_target(route=route, provider=provider)
    _, key = make_key()
    published()
    own = {"x-litellm-api-key": "own-key-1"}
    upstream.script("a", Answer(status=429, headers={"retry-after": "30"}))
    assert door.chat(key).status_code == 429
    assert door.chat(key, headers=own).status_code == 200
    assert door.chat(key).status_code == 429


def test_a_callers_own_limit_does_not_stop_others(door, upstream, published):
    route = make_route(name="gpt")
    provider = make_provider(slug="a", base_url=upstream.url("a"), allow_caller_key=True, retries=0)
    make_target(route=route, provider=provider)
    _, key = make_key()
    published()
    upstream.script("a", Answer(status=429, headers={"retry-after": "30"}))
    assert door.chat(key, headers={"x-litellm-api-key": "own-key-1"}).status_code == 429
    assert door.chat(key).status_code == 200


def test_a_stream_that_breaks_half_way_counts_as_a_failure(door, upstream, published):
    key = two_providers(upstream)
    published()
    upstream.always("a", Answer(chunks=events("x", done=False, finish=False), cut="after_chunks"))
    served = []
    for _ in range(5):
        with door.stream(key) as answer:
            answer.read()
            served.append(answer.headers["x-proxy-provider"])
    assert served == ["a", "a", "a", "b", "b"]


def test_a_stream_that_ends_in_an_error_event_counts_as_a_failure(door, upstream, published):
    key = two_providers(upstream)
    published()
    error = b'data: {"error": {"message": "overloaded"}}\n\n'
    upstream.always("a", Answer(chunks=[*events("x", done=False, finish=False), error], gap=0.02))
    served = []
    for _ in range(5):
        with door.stream(key) as answer:
            answer.read()
            served.append(answer.headers["x-proxy-provider"])
    assert served == ["a", "a", "a", "b", "b"]


def test_a_short_time_out_of_one_caller_does_not_take_a_target_from_the_others(door, upstream, published):
    key = two_providers(upstream)
    published()
    upstream.always("a", Answer(delay=0.2))
    for _ in range(5):
        assert door.chat(key, headers={"x-litellm-timeout": "0.05"}).status_code == 504
    assert door.chat(key).headers["x-proxy-provider"] == "a"


def test_a_target_that_hangs_until_the_deadline_is_a_failure(door, upstream, published):
    key = two_providers(upstream, read_timeout=60)
    from routing.models import ModelRoute

    ModelRoute.objects.update(deadline=0.2)
    published()
    upstream.always("a", Answer(delay=5))
    for _ in range(3):
        assert door.chat(key).status_code == 504
    assert door.chat(key).headers["x-proxy-provider"] == "b"


def test_settings_of_the_breaker_take_effect(door, upstream, published):
    GatewaySettings.objects.create(pk=1, breaker_failures=6)
    key = two_providers(upstream)
    published()
    upstream.always("a", Answer(status=500))
    for _ in range(10):
        door.chat(key)
    assert len(upstream.calls("a")) == 6
    GatewaySettings.objects.update(breaker_enabled=False)
    published()
    for _ in range(4):
        door.chat(key)
    assert len(upstream.calls("a")) == 10


# Under load


class Load:
    """`connections` clients that ask until told to stop, or until `requests` are through."""

    def __init__(self, door, key, connections=32, *, stream=False):
        self.answers = []
        self.faults = []
        self._stop = threading.Event()
        self._content = ask("gpt", stream=True) if stream else ask("gpt")
        self._door, self._key = door, key
        self._connections = connections

    def run(self, requests):
        left = iter(range(requests))
        lock = threading.Lock()

        def client():
            sent = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
            with plain.Client(base_url=self._door.url, headers=self._door.headers | sent, timeout=30) as http:
                while not self._stop.is_set():
                    with lock:
                        if next(left, None) is None:
                            return
                    asked = time.monotonic()
                    answer = http.post("/v1/chat/completions", content=self._content)
                    whole = answer.status_code == 200 and b"error" not in answer.content
                    if not whole:
                        self.faults.append((answer.status_code, answer.text[:300]))
                    self.answers.append((asked, whole, answer.headers.get("x-proxy-provider")))

        threads = [threading.Thread(target=client) for _ in range(self._connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return self


FAULTS = [
    Answer(status=429),
    Answer(status=429, headers={"retry-after": "1"}),
    Answer(status=500),
    Answer(status=503),
    Answer(cut="before_headers", reset=True),
    Answer(cut="before_headers"),
    Answer(delay=5),
    Answer(delay=1.7),
    Answer(chunks=[], cut="after_chunks"),
    Answer(garbage=b"nonsense\r\n\r\n"),
]


@pytest.mark.parametrize("stream", [False, True])
def test_one_healthy_target_is_enough_for_every_request_under_every_fault(
    door, upstream, cooldown, published, stream
):
    route = make_route(name="gpt", strategy="weighted")
    for slug in ("a", "b", "c"):
        provider = make_provider(
            slug=slug,
            base_url=upstream.url(slug),
            retry_delay=0.01,
            read_timeout=1.5,
            health_check_enabled=False,
        )
        make_target(route=route, provider=provider, upstream_model=slug)
    _, key = make_key()
    published()
    dice = random.Random(7)
    for slug in ("a", "b"):
        upstream.script(slug, *(dice.choice(FAULTS) for _ in range(3000)))
    load = Load(door, key, stream=stream).run(2000)
    assert (len(load.answers), load.faults) == (2000, [])
    assert upstream.calls("a")
    assert upstream.calls("b")


def failures_of(slug, since):
    """(seconds after `since`, result) of all attempts on a provider that failed after that; Unix seconds."""
    found = []
    for received, trail in RequestLog.objects.values_list("received_at", "attempt_trail"):
        for entry in trail:
            at = received.timestamp() + entry.get("at_ms", 0) / 1000 + entry.get("ms", 0) / 1000 - since
            if entry["provider"] == slug and "ms" in entry and entry["result"] != "200" and at > 0:
                found.append((at, entry["result"]))
    return sorted(found)


def test_a_target_killed_under_load_is_out_within_a_second_and_back_within_one_cooldown(
    door, upstream, cooldown, published, own_log
):
    """DOWN_SECONDS=60 keeps it down for so long."""
    mortal = FakeUpstream()
    route = make_route(name="gpt", strategy="weighted")
    for slug, url in (("mortal", mortal.url("mortal")), ("b", upstream.url("b"))):
        provider = make_provider(
            slug=slug, base_url=url, retries=1, retry_delay=0.01, health_check_enabled=False
        )
        make_target(route=route, provider=provider, upstream_model=slug)
    _, key = make_key()
    published()
    load = Load(door, key, connections=16)
    thread = threading.Thread(target=load.run, args=(10**9,))
    thread.start()
    try:
        until(lambda: len(load.answers) > 200, "traffic flows")
        killed, killed_at = time.monotonic(), time.time()
        mortal.close()
        time.sleep(DOWN_SECONDS)
        revived = FakeUpstream(mortal.port)
        began = time.monotonic()
        until(lambda: revived.calls("mortal"), "it is tried again")
        back = time.monotonic() - began
        until(lambda: len(revived.calls("mortal")) > 50, "it is in rotation again")
    finally:
        load._stop.set()
        thread.join()
    revived.close()
    assert load.faults == []
    down = [slug for at, _, slug in load.answers if killed + 1 < at < began]
    assert down
    assert set(down) == {"b"}
    assert back < cooldown + LATE
    until(lambda: RequestLog.objects.count() == len(load.answers), "all rows are there", 30)
    failed = failures_of("mortal", killed_at)
    first = [at for at, _ in failed if at < cooldown * 0.9]
    trials = len(failed) - len(first)
    print(
        f"{door.name}: {len(load.answers)} requests, 0 failed; down for {DOWN_SECONDS:g} s: {len(first)} "
        f"attempts failed in the first {max(first, default=0):.3f} s, then {trials} trials; "
        f"back after {back:.3f} s"
    )
    assert len(first) <= 3 or max(first) < 1
    assert trials <= DOWN_SECONDS / cooldown + 1  # one each time: it is not hammered


def test_a_provider_that_comes_back_serves_within_one_cooldown(door, upstream, cooldown, published):
    route = make_route(name="gpt", strategy="ordered")
    port = free_port()
    for priority, (slug, url) in enumerate(
        (("late", f"http://127.0.0.1:{port}/late/v1"), ("b", upstream.url("b")))
    ):
        provider = make_provider(slug=slug, base_url=url, retries=0, health_check_enabled=False)
        make_target(route=route, provider=provider, upstream_model=slug, priority=priority)
    _, key = make_key()
    published()
    for _ in range(4):
        assert door.chat(key).headers["x-proxy-provider"] == "b"
    revived = FakeUpstream(port)
    started = time.monotonic()
    until(lambda: door.chat(key).headers["x-proxy-provider"] == "late", "it serves again")
    assert time.monotonic() - started < cooldown + LATE
    revived.close()
