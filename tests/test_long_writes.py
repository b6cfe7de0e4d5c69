"""SQLite has one writer: what is found out before a write does not keep the others waiting."""

import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from gateway_project.sqlite import base
from monitoring import tasks
from monitoring.models import RequestLog, StaleHour, UsageHour, UsageSum
from monitoring.request_log.generating import calls
from monitoring.retention import retention
from monitoring.shipping.storing import store
from monitoring.usage.rollups import roll_up
from routing.config import loader
from routing.models import GatewaySettings, ModelRoute, Provider, RouteTarget, RoutingVersion
from tests.factories import make_provider, make_route
from tests.live import ROOT, Door, until
from tests.served import Served
from tests.upstream import FakeUpstream

ENTRIES = 150
DAYS = 62
ENTRY = """
  - model_name: model-{number}
    litellm_params: {{model: p{provider}/m-{number}, api_base: "{url}", api_key: sk-upstream-0123456789}}"""


def configuration(entries: int, url: str = "http://127.0.0.1:9/v1") -> str:
    found = (ENTRY.format(number=number, provider=number % 10, url=url) for number in range(entries))
    return "model_list:" + "".join(found) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(configuration(ENTRIES))
    return path


@contextmanager
def transactions() -> Iterator[list[int]]:
    """How many statements each transaction has that is opened within."""
    found: list[int] = []

    def count(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("BEGIN"):
            found.append(0)
        elif connection.in_atomic_block and found:
            found[-1] += 1
        return execute(sql, params, many, context)

    with connection.execute_wrapper(count):
        yield found


@pytest.mark.django_db(transaction=True)
def test_a_file_is_read_and_compared_before_the_one_transaction_that_writes_it(file: Path) -> None:
    with transactions() as statements:
        report = loader.load_file(file)
    assert len(report.changes) == 10 + 2 * ENTRIES
    assert len(statements) == 1
    assert statements[0] <= len(report.changes) + 10
    with transactions() as statements:
        assert not loader.load_file(file).changes
        assert loader.load_file(file, dry_run=True, prune=True).unchanged
    assert statements == []


@pytest.mark.django_db(transaction=True)
def test_a_load_tells_the_workers_once(file: Path) -> None:
    versions = Counted("routing_routingversion")
    with connection.execute_wrapper(versions):
        loader.load_file(file)
    assert versions.writes == 1
    assert RoutingVersion.objects.exists()


class Counted:
    """Writes to one table."""

    def __init__(self, table: str) -> None:
        self.table, self.writes = table, 0

    def __call__(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        self.writes += sql.startswith(("INSERT", "UPDATE")) and f'"{self.table}"' in sql
        return execute(sql, params, many, context)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("edits", [1, loader.TRIES])
def test_an_edit_between_reading_and_writing_is_neither_lost_nor_half_of_it_overwritten(
    file: Path, monkeypatch: pytest.MonkeyPatch, edits: int
) -> None:
    loader.load_file(file)
    file.write_text(configuration(ENTRIES) + "router_settings: {num_retries: 4}\n")
    write, left = loader._write, iter(range(edits))

    def edited(*arguments: Any) -> None:
        if next(left, None) is not None:
            time.sleep(0.001)  # the version is a time
            route = ModelRoute.objects.get(name="model-3")
            route.deadline += 1
            route.save()
            ModelRoute.objects.filter(name="model-4").delete()
        write(*arguments)

    monkeypatch.setattr(loader, "_write", edited)
    before = ModelRoute.objects.get(name="model-3").deadline
    if edits < loader.TRIES:
        loader.load_file(file)
    else:
        with pytest.raises(loader.ConfigInvalid, match="load the file again"):
            loader.load_file(file)
    assert ModelRoute.objects.get(name="model-3").deadline == before + edits
    # Deleted meanwhile: made again by the load that knew of it, and left alone by the one that gave up.
    assert ModelRoute.objects.filter(name="model-4").exists() == (edits < loader.TRIES)
    assert RouteTarget.objects.count() == (ENTRIES if edits < loader.TRIES else ENTRIES - 1)


def fill(days: int, rows: int, last: datetime) -> None:
    store(list(calls(rows, days, last)))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_hours_are_summed_up_before_the_transactions_that_store_them() -> None:
    fill(2, 600, timezone.now())
    hours = StaleHour.objects.count()
    with transactions() as statements:
        assert roll_up() == hours
    # Each hour: stale? fits? usage and sums replaced, no longer stale. Then days are folded.
    assert hours <= len(statements) <= hours + 3
    assert max(statements) <= 12
    assert not StaleHour.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_taking_a_batch_of_rows_reads_none_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many an hour has: its usage moves to what is archived, and no sum changes."""
    from monitoring.audit.usage import differences

    monkeypatch.setattr(retention, "BATCH", 50)
    GatewaySettings.objects.create(pk=1, log_days=10)
    now = datetime.now(UTC)
    at = now.replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=20)
    made = list(calls(400, 1, at))
    start = int(at.timestamp()) * 10**9
    for number, call in enumerate(made):
        call.received_at_ns = start + number
    store(made)
    roll_up()
    sums = list(UsageSum.objects.order_by("pk").values())
    with transactions() as statements:
        assert retention.prune_log(now) == 400
    assert len(statements) <= 12
    assert max(statements) <= 15
    assert not RequestLog.objects.exists()
    assert list(UsageSum.objects.order_by("pk").values()) == sums
    assert not UsageHour.objects.filter(archived=False).exists()
    assert list(differences()) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_rows_that_come_while_an_hour_is_summed_up_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the hour was summed up by another process and is stale again by then."""
    from monitoring.audit.usage import differences
    from monitoring.usage import rollups

    now = timezone.now()
    fill(1, 50, now)
    sum_up, left = rollups._sum_up, iter([True])

    def meanwhile(hour: datetime) -> Any:
        made = sum_up(hour)
        if next(left, False):
            roll_up()
            fill(1, 50, now)
        return made

    monkeypatch.setattr(rollups, "_sum_up", meanwhile)
    roll_up()
    monkeypatch.undo()
    roll_up()
    assert sum(UsageHour.objects.values_list("requests", flat=True)) == 100
    assert list(differences()) == []


@contextmanager
def another_writer() -> Iterator[None]:
    with closing(sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        connection.cursor().execute("PRAGMA busy_timeout = 20")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            connection.close()


PERIODIC = ("probe_providers", "judge_traffic", "prune_health_history", "look_for_alerts", "reprice_requests")
PERIODIC += ("roll_up_usage", "keep_request_log", "send_reports", "update_budgets")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
@pytest.mark.parametrize("name", PERIODIC)
def test_a_task_that_can_not_write_leaves_out_its_turn_with_one_line(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_provider(budget_usd=5)
    fill(1, 5, timezone.now() - timedelta(days=200))
    with another_writer():
        getattr(tasks, name)()
    lines = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) <= 1, [line.getMessage() for line in lines]
    assert all("leaves out this turn" in line.getMessage() for line in lines)
    assert all(line.exc_info is None for line in lines)
    if name in ("probe_providers", "look_for_alerts", "roll_up_usage", "update_budgets"):
        assert lines


@pytest.mark.django_db(transaction=True)
def test_other_faults_of_a_task_are_still_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OperationalError("no such table: x") from sqlite3.OperationalError("no such table: x")

    monkeypatch.setattr(tasks.rollups, "roll_up", fails)
    with pytest.raises(OperationalError):
        tasks.roll_up_usage()


@pytest.mark.django_db(transaction=True)
def test_a_write_that_takes_long_is_logged_with_the_function_that_opened_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(base, "LONGEST_SECONDS", 0.05)

    def slow() -> None:
        with transaction.atomic():
            make_route()
            time.sleep(0.06)

    slow()
    make_route()
    (line,) = [record.getMessage() for record in caplog.records if record.name == base.__name__]
    assert "tests.test_long_writes." in line
    assert "slow" in line


@pytest.mark.django_db(transaction=True)
def test_who_only_waits_for_another_writer_is_not_blamed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider = make_provider()
    monkeypatch.setattr(base, "LONGEST_SECONDS", 0.2)
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.4, lambda: other.execute("ROLLBACK"))
    release.start()
    Provider.objects.filter(pk=provider.pk).update(name="Waited")
    release.join()
    other.close()
    assert [record for record in caplog.records if record.name == base.__name__] == []


def manage(gateway: Served, *arguments: str) -> str:
    """A command's output, warnings included; it may say no."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments], cwd=ROOT, env=gateway.env, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def test_two_months_are_summed_up_and_a_long_file_is_loaded_while_requests_are_served(
    start: Callable[..., Served], migrated: Path, upstream: FakeUpstream, tmp_path: Path
) -> None:
    gateway = start()
    file = tmp_path / "config.yaml"
    file.write_text(configuration(ENTRIES, upstream.url("p")))
    load = ["load_config", str(file)]
    statuses: list[int] = []
    ended = threading.Event()

    def ask() -> None:
        door = Door("fast_lane", gateway.url)
        while not ended.is_set():
            statuses.append(door.chat(gateway.key, "demo-echo").status_code)
            time.sleep(0.02)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        commands = [
            manage(gateway, "generate_request_logs", "--rows", "12000", "--days", str(DAYS), "--add"),
            manage(gateway, *load),
            manage(gateway, *load),
        ]
    finally:
        ended.set()
        asking.join()
    assert set(statuses) == {200}
    until(lambda: "The books agree." in manage(gateway, "audit_books"), "the books agree", 60)
    assert "rows in" in commands[0]
    assert f"{10 + 2 * ENTRIES} created" in commands[1]
    assert "nothing to change" in commands[2]
    told = "".join([gateway.output, *commands])
    assert "locked" not in told
    assert "kept all others waiting" not in told
