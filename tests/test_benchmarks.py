"""The benchmark's own parts: a driver that miscounts would measure nothing."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks import awake, cores, driver, load, turns
from benchmarks.answers import SCENARIOS, mark_in
from benchmarks.cells import CELLS, SUBJECTS, chosen
from benchmarks.load import PROJECT, Target
from benchmarks.packages import PACKAGES
from benchmarks.rig import Subject
from benchmarks.servers import problem_with
from benchmarks.table import COLUMNS, LATE, WIDTH, Table
from tests.live import free_port, until

MALICIOUS = {"1.82.7", "1.82.8"}  # of LiteLLM


@pytest.fixture(scope="module")
def provider():
    """The port of the fake provider."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
    process = subprocess.Popen(command, cwd=PROJECT)
    try:
        until(lambda: problem_with(target(port, "s32")) is None, "the fake provider answers")
        yield port
    finally:
        process.kill()
        process.wait()


def target(port, scenario):
    headers = {"content-type": "application/json"}
    return Target(port=port, path="/v1/chat/completions", model="m", scenario=scenario, headers=headers)


@pytest.fixture(scope="module")
def may_run_first():
    """Asked in another process: this one would keep the priority."""
    asked = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", asked], check=False, capture_output=True).returncode == 0


@pytest.fixture(autouse=True)
def no_pinning(monkeypatch):
    """CI's machines may have any number of cores."""
    popen = subprocess.Popen
    monkeypatch.setattr(load.subprocess, "Popen", lambda command, **words: popen(command[3:], **words))


@pytest.mark.parametrize("scenario", ["json", "s32", "s32-at-once", "s512", "100k", "5m"])
def test_the_driver_counts_whole_answers(provider, scenario):
    report = load.drive(target(provider, scenario).plan(4, 20, once=True), core=0)
    assert (report.whole, report.incomplete, report.broken, report.unanswered) == (4, 0, 0, 0)
    assert 0 < report.first_p50_ms <= report.whole_p99_ms


def test_the_driver_measures_between_warm_up_and_end(provider):
    plan = target(provider, "slow").plan(20, 2.0, ramp=0.5, warm=1.0)
    report = load.drive(plan, core=0)
    assert 20 <= report.whole <= 60  # 20 connections of 1 answer a second each, for 2 s
    assert report.whole_p50_ms >= 1000
    assert report.seconds == pytest.approx(2.0, abs=0.5)


def test_the_driver_runs_before_the_provider_where_it_may(provider, may_run_first, monkeypatch):
    report = load.drive(target(provider, "s32").plan(1, 20, once=True, prompt=True), core=0)
    assert report.whole == 1
    assert report.prompt == may_run_first

    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(driver.os, "sched_setscheduler", refuse)
    assert not driver.gets_real_time()


def test_the_table_says_where_the_clock_waited_for_the_provider():
    table = Table()
    table.add(CELLS["ttft"], "fast", {"ttft_p50_ms": 1.0, "prompt": 1.0})
    assert LATE not in table.text()
    table.add(CELLS["ttft"], "fast", {"ttft_p50_ms": 1.0, "prompt": 0.0})
    assert LATE in table.text()
    assert max(map(len, LATE.splitlines())) <= WIDTH


def test_what_keeps_a_core_awake_has_idle_priority():
    process = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-m", "benchmarks.awake"], cwd=PROJECT)
    try:
        until(lambda: os.sched_getscheduler(process.pid) == os.SCHED_IDLE, "it gives way to all others")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_no_core_is_kept_awake_where_sessions_are_weighed(tmp_path, monkeypatch):
    monkeypatch.setattr(awake, "AUTOGROUP", tmp_path / "sched_autogroup_enabled")
    assert awake.problem() is None
    awake.AUTOGROUP.write_text("0\n")
    assert awake.problem() is None
    awake.AUTOGROUP.write_text("1\n")
    assert "sysctl kernel.sched_autogroup_enabled=0" in awake.problem()


@pytest.mark.parametrize(
    ("governor", "nanoseconds", "said"),
    [
        ("haltpoll", "200000", "Cores look for work for 200 µs before they sleep."),
        ("haltpoll", "0", "Cores sleep at once (guest_halt_poll_ns is 0, Linux's default 200000)"),
        ("menu", "200000", ""),
        ("haltpoll", "", ""),
    ],
)
def test_what_cores_do_at_rest_is_said(governor, nanoseconds, said, tmp_path, monkeypatch):
    monkeypatch.setattr(cores, "GOVERNOR", tmp_path / "governor")
    monkeypatch.setattr(cores, "POLLS", tmp_path / "polls")
    assert cores.at_rest() == ""
    cores.GOVERNOR.write_text(f"{governor}\n")
    cores.POLLS.write_text(f"{nanoseconds}\n")
    assert cores.at_rest().startswith(said)
    assert bool(cores.at_rest()) is bool(said)


def test_the_driver_tells_a_short_answer_from_a_whole_one(provider):
    plan = target(provider, "json").plan(3, 20, once=True)
    wanted = len(SCENARIOS["json"].answer)
    longer = load.drive(load.Plan(**{**load.asdict(plan), "answer_bytes": wanted + 1}), core=0)
    assert (longer.whole, longer.incomplete) == (0, 3)
    events = load.drive(load.Plan(**{**load.asdict(plan), "events": 32}), core=0)
    assert (events.whole, events.incomplete) == (0, 3)


def test_the_driver_counts_connections_that_are_refused():
    report = load.drive(target(free_port(), "json").plan(2, 1, once=True), core=0)
    assert (report.whole, report.broken) == (0, 2)
    assert load.problem_of(report)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_turns_give_each_subject_its_own_rate(provider):
    """The slow one never answers within a turn, and what it answers in the rests doesn't count."""
    quick = Subject(name="nginx", targets={"json": target(provider, "json")})
    slow = Subject(name="fast", targets={"json": target(provider, "slow")})
    found = turns.take(CELLS["json-64"], [quick, slow], 2, core=0)
    assert found["nginx"]["rate"] > 1000
    assert found["fast"]["rate"] < 64


def test_each_scenario_is_found_again_in_its_request():
    for scenario in SCENARIOS.values():
        assert mark_in(scenario.ask("m")) == scenario.mark


def test_the_table_is_at_most_100_columns_wide_with_all_subjects():
    table = Table()
    for cell in CELLS.values():
        for subject in cell.subjects:
            run = {column.key: 12345.678 for column in COLUMNS[cell.kind]} | {"cpu": 1.0, "of_ideal": 1.0}
            table.add(cell, subject, run | {"p50_ms": 1234.5, "p99_ms": 1234.5, "rate": 50123.4})
    lines = table.text().splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert len(lines) > 100
    assert {record["subject"] for record in table.records()} == set(SUBJECTS)


def test_ratios_and_distances_are_taken_from_the_medians():
    table, cell = Table(), CELLS["json-64"]
    for subject, rates in {"direct": [9], "nginx": [10, 30, 20], "fast": [4, 5, 6], "sglang": [2]}.items():
        for rate in rates:
            table.add(cell, subject, {"rate": float(rate), "p50_ms": 100.0 / rate})
    found = table.median(cell.name, "fast")
    assert (found["rate"], found["of nginx"], found["x sglang"]) == (5, 0.25, 2.5)
    assert found["over_ms"] == pytest.approx(100 / 5 - 100 / 9)


def test_a_failed_cell_shows_no_figures():
    table, cell = Table(), CELLS["json-64"]
    table.add(cell, "fast", {"rate": 1.0, "p50_ms": 1.0})
    table.fail(cell, "fast", "why it failed")
    assert "Switchstand FAILED" in table.text()
    assert "why it failed" in table.text()
    assert table.median(cell.name, "fast").get("rate") is None


def test_cells_are_chosen_by_name_and_by_group():
    assert [cell.name for cell in chosen(["ttft", "held"])] == ["held-1000", "held-5000", "ttft"]
    assert chosen([]) == list(CELLS.values())


def test_no_malicious_release_is_installed():
    assert PACKAGES["litellm"].version not in MALICIOUS
