"""Background parts that stall are named by readiness and in the admin."""

import os
import signal
import time
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from monitoring.background import heartbeats
from monitoring.models import Heartbeat
from monitoring.shipping import watching
from monitoring.shipping.state import ShipperState, write_state
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.live import LiveGateway, until
from tests.served import Served


def beaten(component, seconds, instance="h"):
    Heartbeat.objects.create(
        component=component, instance=instance, at=timezone.now() - timedelta(seconds=seconds)
    )


@pytest.mark.django_db
def test_a_part_is_stalled_when_all_its_instances_are():
    beaten("worker", 500, "a")
    beaten("worker", 5, "b")
    beaten("ticks", 90)
    beaten("shipper", 2 * 86400)
    found = heartbeats.stalled(timezone.now())
    assert list(found) == ["ticks"]
    assert found["ticks"].startswith("Celery beat: no periodic task has run for 9")


@pytest.mark.django_db
def test_a_heartbeat_is_written_at_most_every_ten_seconds():
    now = timezone.now()
    moments = [now, now + timedelta(seconds=9), now + timedelta(seconds=11)]
    seen = []
    for moment in moments:
        heartbeats.beat("worker", moment)
        seen.append(Heartbeat.objects.get(component="worker").at)
    assert seen == [now, now, moments[2]]


@pytest.fixture
def attentive(tmp_path, transactional_db):
    """Looks often, and waits for 6 s only after its start."""
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "STALLED_SECONDS": "6"}
    gateway = LiveGateway(tmp_path, env).start()
    yield gateway
    gateway.stop()


def test_readiness_names_a_stalled_beat(attentive):
    live = attentive
    beaten("ticks", 120)
    until(lambda: "ticks" in live.readiness()["stalled"], lambda: f"{live.readiness()}", 25)
    assert plain.get(f"{live.url}/health/readiness").status_code == 200, "requests are served all the same"
    Heartbeat.objects.filter(component="ticks").update(at=timezone.now())
    until(lambda: live.readiness()["stalled"] == {}, lambda: f"{live.readiness()}", 25)


@pytest.mark.parametrize(
    ("age", "shown"), [(3600, "shows no sign of life"), (0, "Celery beat: nothing ran.")]
)
def test_the_admin_names_what_is_stalled(admin_client, settings, tmp_path, monkeypatch, age, shown):
    settings.JOURNAL_DIR = tmp_path
    monkeypatch.setattr(watching, "STARTED", time.time() - 7200)
    page = reverse("admin:routing_gatewaysettings_changelist")
    assert shown not in admin_client.get(page, follow=True).content.decode()
    write_state(tmp_path, ShipperState(time.time() - age, stalled={"ticks": "Celery beat: nothing ran"}))
    assert shown in admin_client.get(page, follow=True).content.decode()


def test_worker_beat_and_shipper_all_give_signs_of_life(migrated):
    served = Served(migrated).start()
    try:
        until(
            lambda: _components(served) == {"ticks", "worker", "shipper"},
            lambda: str(_components(served)),
            40,
        )
        shippers = [pid for pid, line in served.processes().items() if "ship_journal" in line]
        os.kill(shippers[0], signal.SIGSTOP)
        until(lambda: "shipper" in _stalled(served), lambda: str(_stalled(served)), 20)
        os.kill(shippers[0], signal.SIGCONT)
        until(lambda: _stalled(served) == {}, lambda: str(_stalled(served)), 10)
    finally:
        served.kill()


def _stalled(served):
    return served.readiness()["stalled"]


def _components(served):
    import sqlite3

    with sqlite3.connect(served.data_dir / "switchstand.sqlite3") as database:
        rows = database.execute("select component from monitoring_heartbeat").fetchall()
    return {component for (component,) in rows}
