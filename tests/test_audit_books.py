"""The audit finds what was deleted, altered or added by hand, and names it."""

import contextlib
import io

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection

from monitoring.models import RowSeal, UsageHour
from monitoring.shipping.storing import store
from monitoring.usage.rollups import roll_up
from proxy.admission.base import Candidate, Demand
from proxy.admission.limits_file import LimitsFile
from proxy.admission.memory import MemoryAdmission
from proxy.journal.records import to_line
from routing.compiler import compile_table
from tests.factories import make_key
from tests.live import LiveGateway
from tests.optional import needs
from tests.test_journal_faults import closed, dead_journal

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("own_log")]
TRAIL = [{"target": 1, "provider": "p1", "model": "m", "result": "200: ü", "at_ms": 0.0, "ms": 12.0}]


@pytest.fixture(autouse=True)
def own_directories(settings, tmp_path):
    settings.JOURNAL_DIR = tmp_path / "journal"
    settings.LIMITS_FILE = tmp_path / "limits.json"


def audit(*arguments):
    """(exit code, lines)"""
    out, code = io.StringIO(), 0
    with contextlib.suppress(SystemExit):
        code = 1
        call_command("audit_books", *arguments, stdout=out)
        code = 0
    return code, out.getvalue().splitlines()


@pytest.fixture
def rows():
    calls = [
        closed(
            route="gpt",
            team="search",
            attempts=1,
            attempt_trail=TRAIL,
            tags=["b", "a"],
            total_ms=12,
            ttft_ms=0.1 + n,
        )
        for n in range(5)
    ]
    store(calls)
    roll_up()
    return calls


def by_hand(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        assert cursor.rowcount == 1


def stored(call):
    return call.id.replace("-", "")


def test_untouched_books_agree(rows):
    assert audit() == (0, ["The books agree."])
    assert audit("--days", "1") == (0, ["The books agree."])


def test_a_deleted_row_is_named_with_its_cost(rows):
    by_hand("DELETE FROM monitoring_requestlog WHERE id = %s", stored(rows[2]))
    code, lines = audit()
    assert code == 1
    assert lines[0].startswith(f"rows: row {rows[2].id} was deleted: received ")
    assert lines[0].endswith(" UTC, of 5 nano-USD")
    assert any(line.startswith("usage: ") and "team=search" in line for line in lines)


@pytest.mark.parametrize(
    "change", ["cost_nano_usd = 4", "key_name = 'other'", "attempt_trail = '[]'", "total_ms = 12.5"]
)
def test_an_altered_row_is_named(rows, change):
    by_hand(f"UPDATE monitoring_requestlog SET {change} WHERE id = %s", stored(rows[3]))
    code, lines = audit()
    assert code == 1
    assert lines[0].startswith(f"rows: row {rows[3].id} was altered: ")
    assert ("its cost is 4, and was 5 nano-USD" in lines[0]) == change.startswith("cost")


def test_a_row_that_was_added_is_named_and_may_be_sealed(rows):
    RowSeal.objects.filter(pk=rows[0].id).delete()
    code, lines = audit()
    assert (code, lines[0]) == (1, f"rows: row {rows[0].id} was added by hand: it has no seal")
    assert audit("--seal") == (0, ["1 rows sealed as they are now.", "The books agree."])


def test_altered_usage_is_found(rows):
    UsageHour.objects.update(cost_nano_usd=24)
    code, lines = audit()
    assert code == 1
    assert "the rows' cost_nano_usd is 25, the usage's 24" in lines[0]


def test_a_call_of_the_journal_without_a_row_is_found(rows, settings, monkeypatch):
    monkeypatch.setattr("monitoring.audit.journal.SHIPPED_WITHIN", 0.1)
    lost = closed()
    path = dead_journal(settings.JOURNAL_DIR, to_line(lost))
    code, lines = audit()
    assert (code, lines[0]) == (1, f"journal: call {lost.id} ended, {path.name} says, and has no row")


async def test_counters_that_differ_from_rows_are_found(settings, monkeypatch):
    """Counted by one process: told through its file."""
    from asgiref.sync import sync_to_async

    monkeypatch.setattr("monitoring.audit.budgets.PAUSE", 0.01)
    row, _ = await sync_to_async(make_key)(name="app", budget_usd="1")
    (owner,) = next(iter((await sync_to_async(compile_table)()).keys.values())).limit_owners
    admission = MemoryAdmission(lambda *_: 0)
    call = closed(key_id=row.pk, cost_nano_usd=40)
    grant = await admission.admit(
        [owner], [Candidate((), 100)], Demand(call.id, 1, call.received_at_ns / 1e9)
    )
    file = LimitsFile(settings.LIMITS_FILE, admission)

    async def audited():
        file._post()
        return await sync_to_async(audit, thread_sensitive=True)()

    assert (await audited())[1][0] == "budgets: key app has 1 calls open, the journal 0"
    grant.settle(1, 41)
    await sync_to_async(store)([call])
    assert (await audited())[1][0] == "budgets: key app: rows say 40 nano-USD, the counter 41"


@needs("Postgres")
def test_rows_copied_to_postgres_agree_with_their_seals(tmp_path, postgres_server):
    """Also values that a database might write down in another way."""
    calls = [
        closed(attempt_trail=TRAIL, tags=["b"], total_ms=number / 7, ttft_ms=5.0, request_id=f"ü\t\\{number}")
        for number in range(300)
    ]
    for path in (tmp_path / "journal", tmp_path / "again"):
        dead_journal(path, *map(to_line, calls))
    url = postgres_server.create_database("audited", migrated=True)
    gateway = LiveGateway(tmp_path, {"DATABASE_URL": url})
    gateway.manage("ship_journal")
    (again,) = (tmp_path / "again").iterdir()
    again.rename(tmp_path / "journal" / again.name)  # shipped a second time: nothing changes
    gateway.manage("ship_journal")
    with psycopg.connect(gateway.env["DATABASE_URL"], autocommit=True) as link:
        count = link.execute("SELECT count(*), sum(cost_nano_usd) FROM monitoring_requestlog").fetchone()
        assert count == (300, 1500)
        assert gateway.manage("audit_books").stdout == "The books agree.\n"
        link.execute("UPDATE monitoring_requestlog SET total_ms = 2 WHERE id = %s", [calls[7].id])
        link.execute("DELETE FROM monitoring_requestlog WHERE id = %s", [calls[9].id])
    found = gateway.manage("audit_books", check=False)
    assert found.returncode == 1
    assert f"row {calls[7].id} was altered" in found.stdout
    assert f"row {calls[9].id} was deleted" in found.stdout
