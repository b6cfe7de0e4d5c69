"""Two web processes on Postgres and Redis, as a team runs them; and what happens while Postgres is away."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.live import Door, LiveGateway, until
from tests.optional import needs
from tests.services import PostgresServer, RedisServer
from tests.upstream import FakeUpstream

pytestmark = [needs("Postgres"), needs("Redis")]

KEY = "sk-team-0123456789abcdef"
CONFIG = """
model_list:
  - model_name: gpt
    litellm_params: {{model: p1/{model}, api_base: "{url}", api_key: sk-upstream-credential}}
"""


@pytest.fixture(scope="module")
def team(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer, redis_server: RedisServer
) -> Iterator[LiveGateway]:
    directory = tmp_path_factory.mktemp("team")
    env = {
        "DATABASE_URL": postgres_server.create_database("team", migrated=True),
        "REDIS_URL": redis_server.url,
        "WEB_WORKERS": "2",
    }
    gateway = LiveGateway(directory, env)
    gateway.manage("create_key", "app", "--key", KEY)
    yield gateway.start()
    gateway.stop()


def route_to(team: LiveGateway, upstream: FakeUpstream, model: str) -> None:
    config = Path(team.data_dir) / "config.yaml"
    config.write_text(CONFIG.format(model=model, url=upstream.url("p1")))
    team.manage("load_config", str(config), "--prune")


def rows(team: LiveGateway) -> list[tuple[str, str]]:
    with psycopg.connect(team.env["DATABASE_URL"]) as link:
        found = link.execute("SELECT request_id, outcome FROM monitoring_requestlog").fetchall()
    return [(str(request_id), str(outcome)) for request_id, outcome in found]


def chats(door: Door, prefix: str, count: int) -> list[int]:
    def one(number: int) -> int:
        return door.chat(KEY, headers={"x-request-id": f"{prefix}-{number}"}).status_code

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("door_name", ["fast_lane", "drf"])
def test_an_edit_is_live_in_every_worker_and_each_request_is_one_row(
    team: LiveGateway, upstream: FakeUpstream, door_name: str
) -> None:
    door = Door(door_name, team.url)
    for model in ("first", "second"):
        route_to(team, upstream, f"{model}-{door_name}")
        time.sleep(1)
        assert chats(door, f"{door_name}-{model}", 24) == [200] * 24
    seen = [call.json["model"] for call in upstream.calls("p1")]
    assert seen == [f"first-{door_name}"] * 24 + [f"second-{door_name}"] * 24
    wanted = {f"{door_name}-{model}-{number}" for model in ("first", "second") for number in range(24)}
    until(lambda: wanted <= {request_id for request_id, _ in rows(team)}, "every request has its row")
    assert len([row for row in rows(team) if row[0] in wanted]) == len(wanted)


def test_the_last_table_serves_while_the_database_is_away_and_no_row_is_lost(
    team: LiveGateway, upstream: FakeUpstream, postgres_server: PostgresServer
) -> None:
    route_to(team, upstream, "kept")
    time.sleep(1)
    doors = [Door(name, team.url) for name in ("fast_lane", "drf")]
    postgres_server.stop()
    try:
        until(lambda: team.readiness()["table_problem"], "readiness names the problem")
        for door in doors:
            assert chats(door, f"away-{door.name}", 20) == [200] * 20
        assert team.readiness()["status"] == "ready"
    finally:
        postgres_server.start()
    wanted = {f"away-{door.name}-{number}" for door in doors for number in range(20)}
    until(lambda: wanted <= {request_id for request_id, _ in rows(team)}, "every row has come", 30)
    found = [row for row in rows(team) if row[0] in wanted]
    assert len(found) == len(wanted)
    assert {outcome for _, outcome in found} == {"answered"}
    until(lambda: team.readiness()["table_problem"] is None, "the table is refreshed again", 30)
