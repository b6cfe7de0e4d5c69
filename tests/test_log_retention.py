"""The log keeps its days, on SQLite and on Postgres; what it no longer keeps still counts."""

import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from monitoring.budgets.spending import spent
from monitoring.models import RequestLog, RowSeal, UsageHour, UsageSum
from monitoring.retention import retention
from monitoring.retention.retention import prune_log
from monitoring.shipping.storing import store
from monitoring.usage.report import question, report, total
from monitoring.usage.rollups import roll_up
from routing.limit_owners import limit_owners_of
from routing.models import GatewaySettings
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import LiveGateway
from tests.optional import needs
from tests.python_process import PythonProcess
from tests.test_journal_faults import closed

DAY_NS = 86400 * 10**9
NOW = datetime.now(UTC)


def ago(days, **values):
    return closed(received_at_ns=time.time_ns() - int(days * DAY_NS), attempts=1, input_tokens=10, **values)


def figures():
    """What people are told, by every dimension; latencies too."""
    first = str((NOW - timedelta(days=30)).date())
    asked = [
        question({"group_by": group, "from": first}, today=NOW.date())
        for group in ("team", "key", "model", "status", "tag", "day", "month", "hour")
    ]
    narrow = question({"group_by": "day", "team": "ads", "from": first}, today=NOW.date())
    return [[line.shown() for line in report(one)] for one in (*asked, narrow)] + [total(narrow).shown()]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_rows_go_in_batches_and_their_usage_and_cost_stay(monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 3)
    GatewaySettings.objects.create(pk=1, log_days=10)
    budget = {"budget_usd": Decimal(100), "budget_period": "total"}
    team = make_team(slug="ads", **budget)
    type(team).objects.update(created_at=NOW - timedelta(days=100))
    key, _ = make_key(**budget)
    target = make_target(route=make_route(**budget), provider=make_provider(**budget), **budget)
    names = {
        "team": "ads",
        "key_id": key.pk,
        "key_name": key.name,
        "route": target.route.name,
        "target_id": target.pk,
        "provider": target.provider.slug,
    }
    for table in (type(target.route), type(target.provider)):
        table.objects.update(created_at=NOW - timedelta(days=100))
    old = [ago(15 + n / 1000, cost_nano_usd=7, total_ms=float(n), tags=["x"], **names) for n in range(8)]
    fresh = [ago(n, cost_nano_usd=1, **names) for n in range(3)]
    store([*old, *fresh, ago(15, team="ads", cost_nano_usd=100, shadow=True)])
    roll_up()
    before = figures()
    assert prune_log(NOW) == 9
    assert figures() == before
    assert {str(id) for id in RequestLog.objects.values_list("pk", flat=True)} == {c.id for c in fresh}
    assert RowSeal.objects.count() == 3
    rows = (team, key, target.route, target, target.provider)
    assert [spent(limit_owners_of(row)[0], None, None) for row in rows] == [59] * 5
    assert prune_log(NOW) == 0
    roll_up()
    assert figures() == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_row_that_comes_after_its_day_was_pruned_is_counted_once_and_pruned_again():
    GatewaySettings.objects.create(pk=1, log_days=10)
    store([ago(15, team="ads", cost_nano_usd=7)])
    roll_up()
    prune_log(NOW)
    store([ago(15, team="ads", cost_nano_usd=5)])
    for _ in range(2):
        roll_up()
        assert sum(UsageHour.objects.values_list("cost_nano_usd", flat=True)) == 12
        everything = UsageSum.objects.filter(dimension="")
        assert sum(everything.values_list("cost_nano_usd", flat=True)) == 12
        prune_log(NOW)
        assert not RequestLog.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_run_that_stops_between_batches_loses_no_usage(monkeypatch):
    monkeypatch.setattr(retention, "BATCH", 2)
    GatewaySettings.objects.create(pk=1, log_days=10)
    store([ago(15 + n / 1e6, team="ads", cost_nano_usd=n) for n in range(5)])
    roll_up()
    before = figures()
    archive, left = retention.archive, iter([False, True])

    def breaks(*arguments):
        done = archive(*arguments)
        if next(left):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(retention, "archive", breaks)
    with pytest.raises(KeyboardInterrupt):
        prune_log(NOW)
    monkeypatch.undo()
    assert RequestLog.objects.count() == 3
    assert figures() == before
    prune_log(NOW)
    assert figures() == before


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_the_audit_agrees_after_pruning_and_names_an_altered_sum():
    from monitoring.audit.usage import differences

    GatewaySettings.objects.create(pk=1, log_days=10)
    store([ago(15, team="ads", cost_nano_usd=7), ago(2, team="ads", cost_nano_usd=5)])
    roll_up()
    prune_log(NOW)
    assert list(differences()) == []
    UsageSum.objects.filter(dimension="team", start__gte=NOW - timedelta(days=3)).update(cost_nano_usd=6)
    (found,) = differences()
    assert "team=ads: the hours' cost_nano_usd is 5, the sum's 6" in found.what


# On Postgres, in processes of their own: the tests' own database is SQLite.

STORE = """
import time
from monitoring.shipping.storing import store
from tests.test_journal_faults import closed
for days in {days}:
    at = time.time_ns() - int(days * 86400 * 10**9)
    store([closed(received_at_ns=at + n, team="ads", cost_nano_usd=1, attempts=1) for n in range({count})])
"""
FIGURES = """
from monitoring.models import RequestLog, RowSeal, UsageHour, UsageSum
from monitoring.usage.rollups import roll_up
roll_up()
total = lambda found: sum(found.values_list("requests", flat=True))
sums = total(UsageSum.objects.filter(dimension="team"))
print(RequestLog.objects.count(), RowSeal.objects.count(), total(UsageHour.objects), sums)
"""
KEEP = "from monitoring.tasks import keep_request_log as k; k()"


@pytest.fixture
def postgres(tmp_path, postgres_server):
    url = postgres_server.create_database(f"retention{time.time_ns()}", migrated=True)
    return LiveGateway(tmp_path, {"DATABASE_URL": url})


@pytest.fixture
def run(postgres):
    """Runs code in the gateway's environment; what it printed."""
    with PythonProcess(postgres.env) as python:
        yield lambda code: python.run(code).strip()


def parts(gateway, table="monitoring_requestlog"):
    with psycopg.connect(gateway.env["DATABASE_URL"]) as link:
        names = link.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'").fetchall()
        found = {name: link.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for (name,) in names}
    return {name.removeprefix(f"{table}_"): count for name, count in found.items() if name.startswith(table)}


def day(days):
    return f"{datetime.now(UTC) - timedelta(days=days):%Y%m%d}"


@needs("Postgres")
def test_days_are_partitions_made_ahead_and_dropped_when_old(postgres, run):
    run("from routing.models import GatewaySettings as G; G.objects.create(pk=1, log_days=10)")
    assert day(-7) in parts(postgres)
    assert day(-7) in parts(postgres, "monitoring_requestcontent")
    run(STORE.format(days=[0, 1, 5, 15], count=150))
    found = parts(postgres)
    assert (found[day(0)], found[day(1)], found["default"]) == (150, 150, 300)
    assert run(FIGURES) == "600 600 600 600"
    code = "import datetime as d; from monitoring.retention import partitions as p;"
    code += " t = d.datetime.now(d.UTC).date();"
    run(f"{code} p.make([t - d.timedelta(days=n) for n in (5, 15)])")
    found = parts(postgres)
    assert (found[day(5)], found[day(15)], found["default"]) == (150, 150, 0)
    run(KEEP)
    assert day(15) not in parts(postgres)
    assert day(15) not in parts(postgres, "monitoring_rowseal")
    assert run(FIGURES) == "450 450 600 600"
    run(STORE.format(days=[15], count=3))  # late: to the default partition, few enough for no COPY
    assert run(FIGURES) == "453 453 603 603"
    run(KEEP)
    assert run(FIGURES) == "450 450 603 603"
    assert "The books agree." in postgres.manage("audit_books").stdout


@needs("Postgres")
def test_an_id_is_stored_once_also_in_partitions(run):
    code = "from monitoring.shipping.storing import store; from tests.test_journal_faults import closed\n"
    code += "calls = [closed() for _ in range({})]; store(calls); store(calls)"
    for count in (5, 150):
        run(code.format(count))
    assert run(FIGURES) == "155 155 155 155"


@needs("Postgres")
def test_a_log_from_before_is_moved_into_partitions(tmp_path, postgres_server):
    gateway = LiveGateway(tmp_path, {"DATABASE_URL": postgres_server.create_database("upgraded")})
    gateway.manage("migrate", "monitoring", "0006", "-v0")
    link = psycopg.connect(gateway.env["DATABASE_URL"], autocommit=True)
    row = closed(received_at_ns=time.time_ns() - 3 * DAY_NS)
    at = datetime.fromtimestamp(row.received_at_ns / 1e9, UTC)
    link.execute(
        "INSERT INTO monitoring_requestlog (id, received_at, request_id, outcome, error_code, endpoint, "
        "stream, model, key_name, team, route, provider, upstream_model, attempts, attempt_trail, shadow, "
        "tokens_estimated, tags, client_info) VALUES (%s, %s, 'a', 'answered', '', 'chat/completions', "
        "false, '', '', '', '', '', '', 0, '[]', false, false, '[]', '')",
        [row.id, at],
    )
    link.close()
    gateway.manage("migrate", "-v0")
    assert parts(gateway)[day(3)] == 1
    with PythonProcess(gateway.env) as python:
        assert python.run(FIGURES).split()[0] == "1"
    with psycopg.connect(gateway.env["DATABASE_URL"]) as link:
        query = "SELECT indexname FROM pg_indexes WHERE tablename = 'monitoring_requestlog'"
        names = {name for (name,) in link.execute(query)}
    assert {"monitoring_requestlog_pkey", "requestlog_team", "requestlog_request_id"} <= names
