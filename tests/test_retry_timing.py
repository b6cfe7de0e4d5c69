"""When a provider is asked again, to the microsecond: with a clock and dice of the test's own."""

import json
import random
from itertools import pairwise

import pytest

from proxy.admission.memory import MemoryAdmission
from proxy.attempts.backoff import LONGEST_PAUSE
from tests.fake_time import FakeTime
from tests.scripted_engine import JSON, ScriptedEngine, ScriptedResponse
from tests.upstream import completion

EXACT = 1e-6
HOUR = 3600.0
DOWN = (503, {})


class Provider:
    """Answers at once, with these (status, headers) in turn and then well; keeps when it was asked."""

    def __init__(self, clock, answers):
        self._clock = clock
        self._answers = iter(answers)
        self.asked = []

    def can_begin(self, head):
        return False

    async def send(self, request):
        self.asked.append(self._clock())
        status, headers = next(self._answers, (200, {}))
        return ScriptedResponse(status, [_body(status)], JSON, headers)

    async def aclose(self):
        pass

    @property
    def pauses(self):
        return [after - before for before, after in pairwise(self.asked)]


def _body(status):
    return json.dumps(completion() if status == 200 else {"error": {"message": "no"}}).encode()


def ask(answers, *, seed=1, targets=1, retries=9, retry_delay=1.0, deadline=HOUR):
    """(the provider, the error's code or "", seconds that the call took) of one call."""

    async def main(loop):
        engine = ScriptedEngine(
            MemoryAdmission(lambda *_: 0, clock=loop.time),
            [],
            targets=targets,
            provider={"retries": retries, "retry_delay": retry_delay},
            clock=loop.time,
            deadline=deadline,
            max_attempts=100,
            fallbacks=(),
            context_fallbacks=(),
        )
        engine.engine._attempts._dice = random.Random(seed)
        provider = Provider(loop.time, answers)
        engine.send_by(provider)
        began = loop.time()
        code = await engine.call(stream=False, patience=None)
        return provider, code, loop.time() - began

    return FakeTime().run(main)


def jitter(seed, number, retry_delay=1.0):
    """What the dice give for the first so many retries."""
    dice = random.Random(seed)
    return [dice.uniform(0, min(retry_delay * 2**n, LONGEST_PAUSE)) for n in range(number)]


@pytest.mark.parametrize("seed", range(5))
def test_each_pause_is_drawn_from_zero_up_to_twice_the_last_bound(seed):
    provider, code, took = ask([DOWN] * 9, seed=seed)
    assert code == ""
    assert provider.pauses == pytest.approx(jitter(seed, 9), abs=EXACT)
    assert took == pytest.approx(sum(jitter(seed, 9)), abs=EXACT)


def test_the_pauses_of_many_callers_fill_their_whole_range_and_end_at_60_seconds():
    """Full jitter: callers who failed together do not come back together."""
    found = [ask([DOWN] * 9, seed=seed)[0].pauses for seed in range(100)]
    for number in range(9):
        bound = min(2.0**number, 60)
        pauses = [pauses[number] for pauses in found]
        assert max(pauses) <= bound + EXACT
        assert max(pauses) > 0.9 * bound
        assert min(pauses) < 0.1 * bound
        assert 0.35 * bound < sum(pauses) / len(pauses) < 0.65 * bound
    assert LONGEST_PAUSE == 60


def test_the_first_bound_is_the_providers_retry_delay():
    provider, _, _ = ask([DOWN] * 4, seed=3, retry_delay=0.25)
    assert provider.pauses == pytest.approx(jitter(3, 4, 0.25), abs=EXACT)
    provider, _, _ = ask([DOWN] * 4, retry_delay=0.0)
    assert provider.pauses == pytest.approx([0, 0, 0, 0], abs=EXACT)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "300"}, 300),  # longer than any pause of our own
        ({"retry-after": "0.5"}, 0.5),
        ({"x-ratelimit-reset-requests": "1m10s", "x-ratelimit-remaining-requests": "0"}, 70),
    ],
)
def test_what_the_provider_asks_for_is_waited_to_the_end_and_no_longer(status, headers, seconds):
    """Unless the dice say more: the retry delay is so small here that they do not."""
    provider, code, _ = ask([(status, headers)] * 3, retry_delay=0.001)
    assert code == ""
    assert provider.pauses == pytest.approx([seconds] * 3, abs=EXACT)


def test_of_retry_after_and_the_dice_the_longer_counts():
    provider, _, _ = ask([(429, {"retry-after": "2"})] * 8, seed=5)
    wanted = [max(drawn, 2.0) for drawn in jitter(5, 8)]
    assert provider.pauses == pytest.approx(wanted, abs=EXACT)
    assert 2.0 in wanted
    assert max(wanted) > 2.0


@pytest.mark.parametrize(("told", "waits"), [("9.9", True), ("10", False), ("3600", False)])
def test_a_pause_is_begun_only_if_it_ends_before_the_deadline(told, waits):
    provider, code, took = ask([(429, {"retry-after": told})], retry_delay=0.001, deadline=10)
    assert (code, len(provider.asked)) == (("", 2) if waits else ("upstream_rate_limited", 1))
    assert took == pytest.approx(9.9 if waits else 0, abs=EXACT)


def test_after_its_retries_the_call_fails_at_once():
    provider, code, took = ask([DOWN] * 99, seed=2, retries=3)
    assert (code, len(provider.asked)) == ("upstream_error", 4)
    assert took == pytest.approx(sum(jitter(2, 3)), abs=EXACT)


def test_nobody_waits_for_a_rate_limited_target_where_another_may_answer():
    provider, code, took = ask([(429, {"retry-after": "5"})], targets=2)
    assert (code, len(provider.asked)) == ("", 2)
    assert took == pytest.approx(0, abs=EXACT)


def test_the_deadline_ends_a_call_that_goes_on_retrying():
    """Before it, not after: a pause that would reach it is not begun."""
    provider, code, took = ask([DOWN] * 99, seed=4, retries=50, deadline=100)
    drawn = jitter(4, 50)
    fitting = next(n for n in range(50) if sum(drawn[: n + 1]) >= 100)
    assert code == "upstream_error"
    assert len(provider.asked) == fitting + 1
    assert took == pytest.approx(sum(drawn[:fitting]), abs=EXACT)
