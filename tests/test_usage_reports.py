"""Usage over HTTP, as a command, and as CSV: through the doors that people use."""

import csv
import io
import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from monitoring.shipping.storing import store
from monitoring.usage.forecast import forecasts
from monitoring.usage.rollups import roll_up
from tests import plain
from tests.factories import make_key, make_team
from tests.test_journal_faults import closed

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("own_log")]
DAY_NS = 86400 * 10**9
MASTER = "sk-master-of-the-tests-0123"


def master(settings, client, path):
    settings.MASTER_KEY = MASTER
    return client.get(path, headers={"authorization": f"Bearer {MASTER}"})


@pytest.fixture
def calls():
    now = time.time_ns()
    facts = {"attempts": 1, "status": 200, "route": "gpt", "input_tokens": 100, "output_tokens": 10}
    found = [
        closed(**facts, team="search", provider="p1", cost_nano_usd=3, tags=["a", "b"], cached_tokens=50),
        closed(
            **facts, team="search", provider="p2", cost_nano_usd=4, received_at_ns=now - DAY_NS, tags=["a"]
        ),
        closed(**facts, team="ads", provider="p1", cost_nano_usd=50, total_ms=100.0, ttft_ms=10.0),
        closed(team="ads", outcome="upstream_failed", status=502, attempts=1, cost_nano_usd=None),
        closed(team="=ads()", outcome="refused", status=429, cost_nano_usd=None),
    ]
    store(found)
    roll_up()
    return found


def by_group(answer):
    return {line["group"]: line for line in answer.json()["data"]}


def test_usage_by_team_for_the_master_key(settings, client, calls):
    answer = master(settings, client, "/api/usage?group_by=team")
    assert answer.status_code == 200
    found = by_group(answer)
    assert list(found) == ["ads", "search", "=ads()"]  # the dearest first
    assert (found["search"]["requests"], found["search"]["cost_usd"]) == (2, "0.000000007")
    assert (found["search"]["input_tokens"], found["search"]["cached_share"]) == (200, 0.25)
    ads = found["ads"]
    assert (ads["errors"], ads["error_rate"], ads["unpriced"]) == (1, 0.5, 1)
    assert ads["total_ms_p95"] == pytest.approx(100, rel=0.05)
    assert ads["ttft_ms_p50"] == pytest.approx(10, rel=0.05)
    assert (found["=ads()"]["refused"], found["=ads()"]["unpriced"]) == (1, 0)
    assert answer.json()["total"]["cost_usd"] == "0.000000057"


@pytest.mark.parametrize(
    ("query", "groups"),
    [
        ("group_by=provider", {"p1": 2, "p2": 1, "": 2}),
        ("group_by=tag", {"a": 2, "b": 1, "": 3}),
        ("group_by=status", {"200": 3, "502": 1, "429": 1}),
        ("group_by=team&provider=p1", {"search": 1, "ads": 1}),
        ("group_by=team&tag=b", {"search": 1}),
    ],
)
def test_groups_and_filters(settings, client, calls, query, groups):
    found = by_group(master(settings, client, f"/api/usage?{query}"))
    assert {group: line["requests"] for group, line in found.items()} == groups


def test_days_are_whole_and_the_last_is_included(settings, client, calls):
    today = datetime.now(UTC).date()
    yesterday = today - timedelta(days=1)
    found = by_group(master(settings, client, f"/api/usage?from={yesterday}&to={yesterday}"))
    assert {group: line["requests"] for group, line in found.items()} == {str(yesterday): 1}
    found = by_group(master(settings, client, f"/api/usage?from={yesterday}&to={today}"))
    assert sum(line["requests"] for line in found.values()) == 5


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("group_by=colour", "group_by"),
        ("from=yesterday", "from"),
        ("from=2026-02-02&to=2026-02-01", "from"),
        ("from=1990-01-01", "from"),
        ("format=xml", "format"),
    ],
)
def test_a_wrong_question_is_refused_by_name(settings, client, query, field):
    answer = master(settings, client, f"/api/usage?{query}")
    assert (answer.status_code, list(answer.json())) == (400, [field])


def test_csv_has_the_same_and_no_formulas(settings, client, calls):
    answer = master(settings, client, "/api/usage?group_by=team&format=csv")
    assert answer.headers["content-type"] == "text/csv"
    assert "attachment" in answer.headers["content-disposition"]
    lines = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [line["group"] for line in lines] == ["ads", "search", "'=ads()"]
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal("0.000000057")


def test_staff_with_the_right_may_ask_and_nobody_else(client, admin_client, calls, django_user_model):
    assert admin_client.get("/api/usage").status_code == 200
    assert client.get("/api/usage").status_code in (401, 403)
    assert client.get("/api/usage", headers={"authorization": "Bearer sk-x"}).status_code == 401
    client.force_login(django_user_model.objects.create_user("clerk", is_staff=True))
    assert client.get("/api/usage").status_code == 403


def test_requests_are_streamed_as_csv(live, admin_client, calls):
    """From the live gateway: a chunk of rows at a time."""

    session = {"sessionid": admin_client.cookies["sessionid"].value}
    with plain.stream(
        "GET", f"{live.url}/api/usage?group_by=request&format=csv&tag=a", cookies=session
    ) as answer:
        text = answer.read().decode()
        assert answer.headers["transfer-encoding"] == "chunked"
    lines = list(csv.DictReader(io.StringIO(text)))
    assert {line["id"] for line in lines} == {calls[0].id, calls[1].id}
    assert sum(int(line["cost_nano_usd"]) for line in lines) == 7


def test_each_request_of_the_csv_says_who_called_in_its_last_columns(live, admin_client):
    store([closed(client_address="192.0.2.7", user_agent="=curl()")])
    session = {"sessionid": admin_client.cookies["sessionid"].value}
    answer = plain.get(f"{live.url}/api/usage?group_by=request&format=csv", cookies=session)
    head, line = csv.reader(io.StringIO(answer.text))
    assert head[-2:] == ["client_address", "user_agent"]
    assert line[-2:] == ["192.0.2.7", "'=curl()"]


@pytest.mark.parametrize("base", ["/v1", "/api/llm", ""])
def test_a_key_sees_its_own_usage_only(live, published, calls, base):

    row, key = make_key(name="app")
    published()
    store([closed(key_id=row.pk, key_name="app", cost_nano_usd=8)])
    roll_up()
    answer = plain.get(f"{live.url}{base}/usage?key=other", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    assert (answer.json()["total"]["requests"], answer.json()["total"]["cost_usd"]) == (1, "0.000000008")
    wrong = plain.get(f"{live.url}{base}/usage?from=x", headers={"authorization": f"Bearer {key}"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "from")
    assert plain.get(f"{live.url}{base}/usage").status_code == 401


def report(*arguments):
    out = io.StringIO()
    call_command("usage_report", *arguments, stdout=out)
    return out.getvalue()


def test_the_command_prints_a_table_json_and_csv(calls):
    table = report("--group-by", "team")
    assert table.splitlines()[0].split()[:2] == ["group", "requests"]
    assert ["total", "5"] in [line.split()[:2] for line in table.splitlines()]
    assert json.loads(report("--group-by", "team", "--format", "json"))[1]["cost_usd"] == "0.000000007"
    assert len(report("--format", "csv", "--team", "search").splitlines()) == 2
    with pytest.raises(CommandError, match="group_by is 'x'"):
        report("--group-by", "x")


def test_a_teams_month_is_forecast_against_its_budget():
    team = make_team(slug="search", budget_usd="10", budget_period="month")
    make_team(slug="idle")
    noon = datetime(2026, 6, 11, 12, tzinfo=UTC)  # 19.5 days are left of June
    type(team).objects.update(created_at=noon - timedelta(days=100))
    store(
        [
            closed(
                team="search",
                cost_nano_usd=10**9,
                received_at_ns=int((noon - timedelta(days=n, hours=1)).timestamp()) * 10**9,
            )
            for n in range(7)
        ]
    )
    roll_up()
    idle, search = sorted(forecasts(noon.timestamp()), key=lambda found: found.team)
    assert (search.spent, search.expected, search.budget) == (Decimal(7), Decimal("26.5"), Decimal(10))
    assert search.exceeds
    assert (idle.expected, idle.budget, idle.exceeds) == (0, None, False)


def test_the_command_shows_each_teams_month_against_its_budget():
    make_team(slug="search", budget_usd="1", budget_period="month")
    make_team(slug="idle")
    store([closed(team="search", cost_nano_usd=3 * 10**9)])
    lines = [line.split() for line in report("--group-by", "team").splitlines()]
    assert ["idle", "0.0000", "0.0000", "-"] in lines
    (search,) = [line for line in lines if line[:2] == ["search", "3.0000"]]
    assert search[3:] == ["1.00", "over", "budget"]
