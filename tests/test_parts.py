"""Parts that end by themselves: started again with back-off, told once, and what is told is void in time."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from monitoring.alerts.raising import evaluate
from monitoring.background import heartbeats
from monitoring.background.restarts import Restarts, forget_restarts, how_it_ended, restarted
from monitoring.models import Alert, Heartbeat
from monitoring.shipping import watching
from monitoring.shipping.state import ShipperState, write_state
from tests.live import ROOT, until

SUPERVISE = """
import json, sys
from pathlib import Path
from gateway_project.supervisor import Part, Supervisor
def write(text):
    print(text, end="", flush=True)
parts = [Part(name, tuple(command), vital=name == "web") for name, command in json.loads(sys.argv[2])]
supervisor = Supervisor(3.0, write, Path(sys.argv[1]))
if sys.argv[3] == "served":
    supervisor.note_served()
sys.exit(supervisor.run(parts))
"""
LIVES = "import sys; print('lives', flush=True); sys.stdin.read(); print('its parent is gone', flush=True)"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Supervised:
    """A supervisor in a process of its own, with small parts: name -> Python code."""

    def __init__(self, directory: Path, served: bool = True, **parts: str) -> None:
        self.directory, self.output = directory, ""
        commands = [[name, [sys.executable, "-c", code]] for name, code in parts.items()]
        arguments = [str(directory), json.dumps(commands), "served" if served else "new"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def until(self, text: str, times: int = 1) -> None:
        until(
            lambda: self.output.count(text) >= times, lambda: f"{text!r} {times} times in\n{self.output}", 60
        )

    def __enter__(self) -> "Supervised":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


def test_the_first_start_is_at_once_then_pauses_grow_to_half_a_minute_and_a_minute_of_life_forgets(tmp_path):
    clock = Clock()
    part = Restarts("background", tmp_path, clock)
    pauses = []
    for _ in range(8):
        part.began()
        clock.now += 2
        pauses.append(part.ended("exit status 1")[0])
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30]
    part.began()
    clock.now += 60
    assert part.ended("exit status 1")[0] == 0


def test_an_end_is_said_when_something_changes_and_not_again_and_again(tmp_path):
    clock = Clock()
    part = Restarts("background", tmp_path, clock)
    lines = []
    for _ in range(12):
        part.began()
        lines.append(part.ended("killed by SIGKILL")[1])
    assert lines[0] == "ended (killed by SIGKILL); it is started again at once"
    assert lines[1] == "ended (killed by SIGKILL); it is started again in 1 s"
    assert lines[6].endswith("in 30 s")
    assert set(lines[7:]) == {""}
    part.began()
    clock.now += 61
    assert part.ended("exit status 0")[1] == "ended (exit status 0); it is started again at once"


def test_what_is_told_of_a_part_is_void_a_minute_after_its_start(tmp_path):
    Restarts("background", tmp_path).ended(how_it_ended(-9))
    told = restarted(tmp_path, time.time() + 59)
    assert told == {
        "background": "the background process (Celery worker and beat) ended (killed by SIGKILL) and is "
        "started again"
    }
    assert restarted(tmp_path, time.time() + 61) == {}
    assert restarted(tmp_path, time.time() - 3600) == {}, "the clock was set back"
    forget_restarts(tmp_path)
    assert restarted(tmp_path, time.time()) == {}


def test_a_full_disk_keeps_no_part_from_being_started_again(tmp_path):
    (tmp_path / "parts").write_text("a file where a directory should be")
    assert Restarts("web", tmp_path / "parts").ended("exit status 1")[0] == 0


def test_others_live_on_when_a_part_ends(tmp_path):
    ends = "import sys; print('began', flush=True); sys.exit(3)"
    with Supervised(tmp_path, web=LIVES, background=ends) as supervised:
        supervised.until("began", 3)
        lines = supervised.output.splitlines()
        # The third may have ended by now as well, on a busy machine the fourth.
        assert sum("ended (exit status 3)" in line for line in lines) >= 2
        assert supervised.output.count("| lives") == 1, "web was started once"
        assert "web        | ended" not in supervised.output
        assert list(restarted(tmp_path, time.time())) == ["background"]
    assert supervised.process.returncode == 128 + signal.SIGTERM
    assert "gone" not in supervised.output, "it was told to stop before its input ended"


def test_web_is_started_again_once_it_has_served(tmp_path):
    with Supervised(tmp_path, web=f"import os; print(os.getpid(), flush=True); {LIVES}") as supervised:
        supervised.until("lives")
        number = int(supervised.output.split("|")[1].split()[0])
        os.kill(number, signal.SIGKILL)
        supervised.until("lives", 2)
    assert supervised.output.count("web        | ended (killed by SIGKILL); it is started again at once") == 1


def test_a_web_process_that_cannot_start_the_first_time_ends_all_and_says_why(tmp_path):
    broken = "import sys; print('Port 4000 is taken.', flush=True); sys.exit(7)"
    with Supervised(tmp_path, served=False, web=broken, background=LIVES) as supervised:
        assert supervised.process.wait(60) == 7
        supervised.until("web        | can't start (exit status 7): Port 4000 is taken.")


def test_parts_end_by_themselves_when_the_supervisor_is_killed(tmp_path):
    seen = tmp_path / "seen"
    code = f"import sys; print('lives', flush=True); sys.stdin.read(); open({str(seen)!r}, 'w').close()"
    with Supervised(tmp_path, web=code) as supervised:
        supervised.until("lives")
        supervised.process.kill()
        until(seen.exists, "the part saw it")


def test_a_stop_while_a_part_waits_for_its_next_start_ends_all(tmp_path):
    with Supervised(tmp_path, web=LIVES, background="raise SystemExit(1)") as supervised:
        supervised.until("in 2 s")
        supervised.process.send_signal(signal.SIGTERM)
        assert supervised.process.wait(20) == 128 + signal.SIGTERM


@pytest.fixture
def parts_dir(settings, tmp_path):
    settings.PARTS_DIR = tmp_path / "parts"
    return settings.PARTS_DIR


@pytest.mark.django_db
def test_a_part_that_ended_is_an_alert_until_it_has_lived_for_a_minute(parts_dir):
    Restarts("background", parts_dir).ended("exit status 1")
    evaluate(timezone.now())
    alert = Alert.objects.get(rule__kind="stalled", subject="background")
    assert alert.summary.startswith("The background process (Celery worker and beat) ended (exit status 1)")
    evaluate(timezone.now() + timedelta(seconds=61))
    alert.refresh_from_db()
    assert alert.ended_at is not None


def test_readiness_and_the_admins_first_page_name_a_part_that_ended(parts_dir, admin_client):
    Restarts("shipper", parts_dir).ended("exit status 1")
    assert "journal&#x27;s shipper ended (exit status 1)" in admin_client.get("/admin/").content.decode()
    assert list(watching.stalled_parts()) == ["shipper"]


@pytest.fixture
def watch(monkeypatch):
    found = heartbeats.Watch()
    monkeypatch.setattr(heartbeats, "watch", found)
    return found


def was_alive(component, seconds, now):
    Heartbeat.objects.create(component=component, instance="h", at=now - timedelta(seconds=seconds))


@pytest.mark.django_db
def test_what_was_off_is_no_alert_until_it_had_time_to_run(watch):
    now = timezone.now()
    for component in ("ticks", "worker", "shipper"):
        was_alive(component, 3600, now)
    for seconds in range(0, 61, 5):
        watch.look(now + timedelta(seconds=seconds))
        assert heartbeats.stalled(now + timedelta(seconds=seconds)) == {}
    watch.look(now + timedelta(seconds=65))
    assert list(heartbeats.stalled(now + timedelta(seconds=65))) == ["shipper", "ticks", "worker"]


@pytest.mark.django_db
def test_a_machine_that_slept_raises_no_alert(watch):
    now = timezone.now()
    watch.look(now - timedelta(hours=3))
    was_alive("worker", 7200, now)
    watch.look(now - timedelta(seconds=7190))
    watch.look(now)
    assert heartbeats.stalled(now) == {}


@pytest.mark.django_db
def test_an_alert_that_was_open_at_a_start_stays_open_until_a_sign_of_life(watch):
    now = timezone.now()
    was_alive("worker", 3600, now)
    evaluate(now)
    later = now + timedelta(seconds=60)
    watch.look(later)
    evaluate(later)
    assert Alert.objects.get(subject="worker").ended_at is None
    Heartbeat.objects.update(at=later)
    evaluate(later + timedelta(seconds=20))
    assert Alert.objects.get(subject="worker").ended_at is not None


def test_a_shipper_that_was_off_with_its_web_process_is_not_called_silent(monkeypatch, settings, tmp_path):
    settings.JOURNAL_DIR = tmp_path
    write_state(tmp_path, ShipperState(time.time() - 3600, stalled={"ticks": "Celery beat: nothing ran"}))
    monkeypatch.setattr(watching, "STARTED", time.time() - 30)
    assert watching.stalled_parts() == {}
    monkeypatch.setattr(watching, "STARTED", time.time() - 61)
    assert list(watching.stalled_parts()) == ["shipper"]
