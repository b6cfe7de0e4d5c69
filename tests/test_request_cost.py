"""What a request costs, in calls and memory: no clock, so that a busy machine changes nothing.

The bounds are 1.1 times of what was counted when they were set (beside them). Who makes a request cheaper
may lower them; who can't stay below them finds with `make profile` what costs.
"""

import gc
import statistics
import sys
import tracemalloc
from collections import Counter

import pytest

from benchmarks import stages
from benchmarks.answers import SCENARIOS
from benchmarks.in_process import InProcess
from monitoring.models import RequestLog
from monitoring.shipping.shipper import Shipper
from proxy.doors.exchange import Exchange
from proxy.doors.fast_lane import FastLaneProtocol
from proxy.gateway import build_gateway, stop_gateway
from tests.factories import make_key, make_provider, make_route, make_target

MODEL = "gpt-4o-mini"
WARM, COUNTED = 50, 200
UNLIMITED = {"rpm": 10**8, "tpm": 10**8, "budget_usd": 10**5}
SEE = "see where they come from with `make profile`"

MOST = {
    "json": {"python calls": 256, "calls of C": 167, "bytes at the peak": 6_710},  # 233, 152, 6,099
    "s32": {"python calls": 922, "calls of C": 677, "bytes at the peak": 7_310},  # 838, 615, 6,645
}
MOST_BLOCKS_KEPT = 1.0  # per request


@pytest.fixture
def engine(settings, tmp_path, transactional_db):
    """A key with all limits, a route of two targets with prices, a journal on disk."""
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    provider, route = make_provider(slug="openai"), make_route(name=MODEL)
    for upstream_model in (MODEL, "gpt-4o"):
        make_target(route=route, provider=provider, upstream_model=upstream_model)
    _, key = make_key(**UNLIMITED)
    stop_gateway()
    gateway = build_gateway()
    gateway.keeper.refresh()
    with InProcess(gateway, key, MODEL) as running:
        yield running


def calls(engine, scenario):
    """Python functions and functions of C per request."""
    found = Counter()

    def count(_frame, event, _argument):
        found[event] += 1

    sys.setprofile(count)
    try:
        engine.run(scenario, COUNTED)
    finally:
        sys.setprofile(None)
    return found["call"] / COUNTED, found["c_call"] / COUNTED


def peak(engine, scenario):
    """Bytes that one request allocates at most at a time."""
    peaks, before = [], 0

    def at_begin():
        nonlocal before
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]

    def at_end():
        peaks.append(tracemalloc.get_traced_memory()[1] - before)

    tracemalloc.start()
    try:
        engine.run(scenario, WARM, at_end, at_begin)
    finally:
        tracemalloc.stop()
    return statistics.median(peaks)


@pytest.mark.parametrize("name", MOST)
def test_a_request_takes_no_more_calls_and_memory_than_it_should(engine, name):
    scenario = SCENARIOS[name]
    engine.run(scenario, WARM)
    python_calls, c_calls = calls(engine, scenario)
    counted = {
        "python calls": python_calls,
        "calls of C": c_calls,
        "bytes at the peak": peak(engine, scenario),
    }
    too_many = {
        what: (found, MOST[name][what]) for what, found in counted.items() if found > MOST[name][what]
    }
    assert not too_many, f"{too_many} (counted, allowed per request); {SEE}; all: {counted}"
    assert counted["python calls"] > 20, "nothing was counted"


@pytest.mark.parametrize("name", MOST)
def test_a_request_leaves_nothing_in_memory(engine, name):
    engine.run(SCENARIOS[name], 2 * WARM)
    gc.collect()
    before = sys.getallocatedblocks()
    engine.run(SCENARIOS[name], 5 * COUNTED)
    gc.collect()
    kept = (sys.getallocatedblocks() - before) / (5 * COUNTED)
    assert kept < MOST_BLOCKS_KEPT, f"{kept:.2f} blocks of memory are kept per request"


def test_a_client_that_has_gone_waits_for_no_garbage_collection(engine):
    """It would for millions of requests: memory grew by 6 % meanwhile."""
    engine.run(SCENARIOS["json"], 1)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            engine.run(SCENARIOS["json"], 2)
            engine.run(SCENARIOS["s32"], 2)
        assert [one for one in gc.get_objects() if isinstance(one, FastLaneProtocol | Exchange)] == []
    finally:
        gc.enable()


def test_the_requests_that_are_counted_are_whole_ones(engine, tmp_path):
    """They are in the books, with tokens and cost."""
    engine.run(SCENARIOS["json"], 3)
    engine.run(SCENARIOS["s32"], 3)
    Shipper(tmp_path / "journal").ship()
    rows = list(RequestLog.objects.values_list("stream", "outcome", "status", "output_tokens"))
    assert Counter(row[:3] for row in rows) == {(False, "answered", 200): 3, (True, "answered", 200): 3}
    assert {row[3] for row in rows if not row[0]} == {54}
    assert all(row[3] for row in rows)


def test_every_stage_of_the_profile_is_still_in_the_code():
    found = {stage for stage, _, _, _ in stages.places()}
    assert found == set(stages.STAGES), f"benchmarks/stages.py names what is gone: {stages.missing()}"


@pytest.mark.parametrize("name", stages.SCENARIOS_SHOWN)
def test_the_profile_gives_every_stage_its_time(engine, name):
    clock = stages.Clock()
    with stages.watched(clock):
        engine.run(SCENARIOS[name], 20, clock.end_request)
    medians = clock.medians()
    assert [stage for stage, spent in medians.items() if spent <= 0] == []
