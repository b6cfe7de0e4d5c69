"""/key/info and /spend/logs as LiteLLM's clients know them, from a live gateway."""

import time
from datetime import UTC, datetime

import pytest

from monitoring.shipping.storing import store
from monitoring.usage.rollups import roll_up
from routing.gateway_keys import digest
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_route, make_team
from tests.live import LiveGateway
from tests.test_journal_faults import closed


@pytest.fixture
def asked(live, published):
    """Two keys with one request each; returns what asks as a key."""
    route = make_route(name="gpt")
    mine = make_key(
        name="app", team=make_team(slug="search"), budget_usd="2.5", rpm=7, allowed_routes=[route]
    )
    other = make_key(name="other")
    published()
    for (row, _), cost in ((mine, 1_500_000_000), (other, 9)):
        facts = {"route": "gpt", "upstream_model": "m", "input_tokens": 3, "output_tokens": 4}
        store([closed(key_id=row.pk, key_name=row.name, cost_nano_usd=cost, total_ms=1500.0, **facts)])
    roll_up()

    def get(path, **query):
        return plain.get(f"{live.url}{path}", params=query, headers={"authorization": f"Bearer {mine[1]}"})

    get.mine, get.other = mine[1], other[1]
    return get


def test_a_key_is_told_its_limits_and_spending(asked):
    answer = asked("/key/info").json()
    assert answer["key"] == digest(asked.mine).hex()
    info = answer["info"]
    assert (info["key_alias"], info["spend"], info["max_budget"], info["rpm_limit"]) == ("app", 1.5, 2.5, 7)
    assert (info["models"], info["team_id"], info["blocked"]) == (["gpt"], "search", False)
    assert asked("/key/info", key=asked.mine).status_code == 200
    assert asked.mine not in str(answer)


def test_a_budgets_spending_is_of_its_period_beside_what_is_left_and_when_it_resets(live, published):
    row, plaintext = make_key(name="monthly", budget_usd="2.5", budget_period="month")
    published()
    long_ago = time.time_ns() - 40 * 86400 * 10**9
    facts = {"key_id": row.pk, "key_name": row.name, "total_ms": 1.0}
    store([closed(cost_nano_usd=9 * 10**9, received_at_ns=long_ago, **facts)])
    store([closed(cost_nano_usd=500_000_000, **facts)])
    roll_up()
    asked = plain.get(f"{live.url}/key/info", headers={"authorization": f"Bearer {plaintext}"})
    info = asked.json()["info"]
    assert (info["spend"], info["max_budget"], info["budget_left"], info["total_spend"]) == (
        0.5,
        2.5,
        2.0,
        9.5,
    )
    assert (info["budget_duration"], info["budget_period"]) == ("30d", "month")
    starts, resets = (
        datetime.fromisoformat(info[name]) for name in ("budget_period_start", "budget_reset_at")
    )
    assert starts <= datetime.now(UTC) < resets
    assert (starts.day, resets.day) == (1, 1)


@pytest.mark.parametrize("values", [{}, {"budget_usd": "2.5"}])
def test_without_a_period_all_that_was_ever_spent_counts_and_nothing_resets(live, published, values):
    row, plaintext = make_key(name="k", **values)
    published()
    store([closed(key_id=row.pk, key_name="k", cost_nano_usd=3 * 10**9, total_ms=1.0)])
    roll_up()
    asked = plain.get(f"{live.url}/key/info", headers={"authorization": f"Bearer {plaintext}"})
    info = asked.json()["info"]
    assert (info["spend"], info["total_spend"], info["budget_reset_at"]) == (3.0, 3.0, None)
    assert info["budget_left"] == (0.0 if values else None)


@pytest.mark.parametrize(("path", "name"), [("/key/info", "key"), ("/spend/logs", "api_key")])
def test_a_key_may_not_ask_about_another(asked, path, name):
    answer = asked(path, **{name: asked.other})
    assert (answer.status_code, answer.json()["error"]["gateway_code"]) == (403, "ACCESS_FORBIDDEN")


def test_a_key_sees_its_own_requests(asked):
    (row,) = asked("/spend/logs").json()
    assert (row["api_key"], row["spend"], row["total_tokens"]) == ("app", 1.5, 7)
    assert (row["model"], row["model_group"], row["status"]) == ("m", "gpt", "success")
    assert asked("/spend/logs", request_id="none").json() == []


def test_days_are_summed_up_unless_told_otherwise(asked):
    (day,) = asked("/spend/logs", start_date="2026-01-01", end_date="2027-12-31").json()
    assert (day["spend"], day["models"], day["users"]) == (1.5, {"gpt": 1.5}, {"app": 1.5})
    dated = {"start_date": "2026-01-01", "end_date": "2027-12-31", "summarize": "false"}
    assert len(asked("/spend/logs", **dated).json()) == 1
    wrong = asked("/spend/logs", start_date="soon")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "start_date")


def test_the_master_key_may_ask_about_every_key(tmp_path, transactional_db):
    row, plaintext = make_key(name="app")
    store([closed(key_id=row.pk, key_name="app", cost_nano_usd=10**9), closed(key_id=None)])
    roll_up()
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "MASTER_KEY": "sk-master-of-the-tests-0123"}
    gateway = LiveGateway(tmp_path, env).start()
    try:
        client = plain.Client(
            base_url=gateway.url, headers={"authorization": "Bearer sk-master-of-the-tests-0123"}
        )
        for given in (plaintext, digest(plaintext).hex()):
            assert client.get("/key/info", params={"key": given}).json()["info"]["spend"] == 1.0
        assert client.get("/key/info").json()["error"]["param"] == "key"
        assert client.get("/key/info", params={"key": "sk-none"}).status_code == 400
        assert len(client.get("/spend/logs").json()) == 2
        assert len(client.get("/spend/logs", params={"api_key": plaintext}).json()) == 1
    finally:
        gateway.stop()
