"""Each periodic task runs in time, whatever became of the others; beat is on a private clock."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.conf import settings

from gateway_project import processes
from tests.live import ROOT, until
from tests.optional import needs

SCHEDULE = settings.CELERY_BEAT_SCHEDULE.values()
PERIODS = {entry["task"].rpartition(".")[2]: float(entry["schedule"]) for entry in SCHEDULE}
STEPS = (2, 2, 2, 4, 5, 15, 30, 60, 600, 1200, 1800, 3600)
"""Seconds that the clock is set forward by; they add up to two periods of the slowest task."""


@dataclass(frozen=True)
class Line:
    what: str
    task: str
    at: float
    waiting: int


class Background:
    """The processes that run tasks, on a clock of their own."""

    def __init__(self, directory: Path, env: dict[str, str], *commands: list[str]) -> None:
        self.directory, self.commands = directory, commands
        self.env = (
            os.environ
            | {
                "DATA_DIR": str(directory),
                "CLOCK_DIR": str(directory),
                "DATABASE_URL": f"sqlite:///{directory / 'switchstand.sqlite3'}",
                "DJANGO_SETTINGS_MODULE": "tests.clock_settings",
            }
            | env
        )
        self.offset = 0.0
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> float:
        """When, on the private clock."""
        begun = self.now()
        with open(self.directory / "log", "ab") as log:
            for command in self.commands:
                self.running.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=self.env, stdin=subprocess.PIPE, stdout=log, stderr=log
                    )
                )
        return begun

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.wait(10)
        self.running.clear()

    def now(self) -> float:
        return time.monotonic() + self.offset

    def advance(self, seconds: float) -> None:
        """And wait until beat has seen it: its quickest task has begun since."""
        self.offset += seconds
        new = self.directory / "clock.new"
        new.write_text(str(self.offset))
        new.replace(self.directory / "clock")
        begun = self.now()
        self.until(lambda: self.began_since(begun), f"it is {seconds} s later")

    def began_since(self, moment: float) -> list[float]:
        return [at for at in self.begins("probe_providers") if at >= moment]

    def until(self, condition: Callable[[], object], what: str) -> None:
        log = self.directory / "log"
        until(condition, lambda: f"{what}\n{self.runs()[-30:]}\n{log.read_text()[-3000:]}", 90)

    def runs(self) -> list[Line]:
        try:
            lines = (self.directory / "runs").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [line.split() for line in lines]
        return [Line(what, task, float(at), int(waiting)) for what, task, at, waiting, _ in found]

    def begins(self, task: str) -> list[float]:
        return [line.at for line in self.runs() if line.task == task and line.what == "begins"]


@pytest.fixture
def embedded(migrated: Path) -> Iterator[Background]:
    yield from _ended(Background(migrated, {}, processes.background(1.0)))


@pytest.fixture
def apart(request: pytest.FixtureRequest, migrated: Path) -> Iterator[Background]:
    """With Redis: two workers, and beat in a process of its own."""
    redis = request.getfixturevalue("redis_server")
    redis.client.flushall()
    commands = (processes.worker(), processes.worker(), processes.beat())
    yield from _ended(Background(migrated, {"REDIS_URL": redis.url}, *commands))


def _ended(background: Background) -> Iterator[Background]:
    yield background
    background.kill()


@pytest.fixture(params=["embedded", pytest.param("apart", marks=needs("Redis"))])
def background(request: pytest.FixtureRequest) -> Background:
    found: Background = request.getfixturevalue(request.param)
    return found


def each_ran_in_time(background: Background, begun: float) -> None:
    """Within two of its periods since beat began, which runs the quickest one first."""
    begun = background.began_since(begun)[0] - PERIODS["probe_providers"]
    late = {}
    for task, period in PERIODS.items():
        first = min((at for at in background.begins(task) if at >= begun), default=begun + 10_000)
        if first > begun + 2 * period + NOISE_SECONDS:
            late[task] = first - begun
    assert not late, f"not within two periods: {late}"


NOISE_SECONDS = 15.0
"""What a busy machine may add, where the private clock goes on as the real one does."""


def never_twice_at_once(background: Background) -> None:
    running = set()
    for line in background.runs():
        if line.what == "begins":
            assert line.task not in running, f"{line.task} ran twice at once"
            running.add(line.task)
        else:
            running.discard(line.task)


def first_runs(background: Background, begun: float) -> None:
    background.until(lambda: background.began_since(begun), "it began")
    for step in STEPS:
        background.advance(step)


def test_each_task_runs_within_two_of_its_periods_after_a_start_and_a_kill(background: Background) -> None:
    begun = background.start()
    first_runs(background, begun)
    each_ran_in_time(background, begun)
    never_twice_at_once(background)
    background.kill()
    (background.directory / "runs").unlink()  # what was under way has no end
    again = background.start()
    first_runs(background, again)
    each_ran_in_time(background, again)
    never_twice_at_once(background)


def test_a_task_that_hangs_for_ten_minutes_holds_up_no_other_and_its_ticks_do_not_pile_up(
    background: Background,
) -> None:
    block = background.directory / "block-roll_up_usage"
    block.touch()
    begun = background.start()
    background.until(lambda: background.begins("probe_providers"), "it began")
    background.advance(15)
    background.until(lambda: background.begins("roll_up_usage"), "the task hangs")
    for _ in range(20):
        background.advance(30)
    hung = background.begins("roll_up_usage")
    assert len(hung) == 1, "it was not begun again meanwhile"
    quick = {task: period for task, period in PERIODS.items() if period <= 60 and task != "roll_up_usage"}
    for task, period in quick.items():
        assert len(background.begins(task)) >= 600 / (2 * max(period, 30)), task
    assert max(line.waiting for line in background.runs()) <= 2 * len(PERIODS)
    block.unlink()
    released = background.now()
    background.advance(15)
    background.advance(15)
    background.until(lambda: len(background.begins("roll_up_usage")) > 1, "it runs again")
    assert background.begins("roll_up_usage")[1] <= released + 2 * PERIODS["roll_up_usage"] + NOISE_SECONDS
    assert len(background.begins("roll_up_usage")) < 20, "the ticks that it missed are not made up for"
    never_twice_at_once(background)
    for step in STEPS[-4:]:
        background.advance(step)
    each_ran_in_time(background, begun)


def test_a_tick_that_was_missed_is_not_made_up_for(embedded: Background) -> None:
    begun = embedded.start()
    embedded.until(lambda: embedded.begins("probe_providers"), "it began")
    embedded.advance(120)
    embedded.advance(7200)
    embedded.until(lambda: len(embedded.begins("keep_request_log")) > 1, "the slow ones ran")
    embedded.advance(2)
    embedded.advance(2)
    after = {task: len([at for at in embedded.begins(task) if at >= begun + 7200]) for task in PERIODS}
    assert after["keep_request_log"] == after["prune_health_history"] == 1, "not four times"
    assert after["update_budgets"] <= 2


def test_nothing_but_beat_puts_tasks_into_a_queue() -> None:
    """In memory no other process could; what an admin asks for is a row, and so it is in every mode."""
    calls = re.compile(r"\.(delay|apply_async|send_task)\(")
    apps = ("gateway_project", "routing", "proxy", "monitoring")
    sources = [path for app in apps for path in (ROOT / app).rglob("*.py")]
    assert [str(path) for path in sources if calls.search(path.read_text())] == []


def test_what_an_admin_asks_for_is_looked_for_every_two_seconds() -> None:
    assert PERIODS["reprice_requests"] == 2
