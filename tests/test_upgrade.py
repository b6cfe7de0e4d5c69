"""The release before left a database, and calls that were under way: this one goes on with them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.live import Door, until
from tests.optional import needs
from tests.python_process import PythonProcess
from tests.release import HEADER_KEY, OPEN, PROVIDER_KEY, UNSHIPPED, Release
from tests.served import Served
from tests.services import PostgresServer
from tests.upstream import FakeUpstream

RELEASE = Release()
KEYS: dict[str, str] = RELEASE.facts["keys"]
STATUSES = {
    ("app", "gpt"): 200,
    ("app", "gpt-4"): 200,
    ("app", "open/anything"): 200,
    ("app", "fragile"): 200,
    ("free", "unpriced"): 200,
    ("app", "nothing"): 404,
    ("restricted", "gpt"): 200,
    ("restricted", "unpriced"): 403,
    ("revoked", "gpt"): 401,
    ("expired", "gpt"): 401,
    ("prepaid", "gpt"): 200,
}


@dataclass
class Upgraded:
    """The new code, served on the old database."""

    gateway: Served
    python: PythonProcess
    upstream: FakeUpstream
    facts: dict[str, Any]

    def rows(self, **filters: Any) -> int:
        code = (
            f"from monitoring.models import RequestLog as R; print(R.objects.filter(**{filters!r}).count())"
        )
        return int(self.python.run(code))

    def audit(self) -> str:
        """What the command prints; it exits with 1 where the books differ."""
        return self.python.run(
            "from django.core.management import call_command\n"
            "try: call_command('audit_books')\n"
            "except SystemExit: pass"
        )


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=needs("Postgres"))])
def upgraded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream_server: FakeUpstream
) -> Iterator[Upgraded]:
    upstream_server.clear()
    data_dir = tmp_path_factory.mktemp("upgraded")
    env = PREPARE[request.param](request, data_dir, upstream_server.port)
    RELEASE.unpack(request.param, data_dir)
    gateway = Served(data_dir, **env)
    try:
        gateway.start()
        with PythonProcess(gateway.env) as python:
            yield Upgraded(gateway, python, upstream_server, RELEASE.facts[request.param])
    finally:
        gateway.kill()


def _sqlite(request: pytest.FixtureRequest, data_dir: Path, port: int) -> dict[str, str]:
    RELEASE.load_sqlite(data_dir / "switchstand.sqlite3", port)
    return {}


def _postgres(request: pytest.FixtureRequest, data_dir: Path, port: int) -> dict[str, str]:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.create_database("upgraded")
    RELEASE.load_postgres(url, port)
    return {"DATABASE_URL": url, **RELEASE.secrets}


PREPARE: dict[str, Callable[..., dict[str, str]]] = {"sqlite": _sqlite, "postgres": _postgres}


def test_the_journal_of_the_release_before_is_shipped_and_what_it_left_open_counts_as_unknown(
    upgraded: Upgraded,
) -> None:
    wanted = upgraded.facts["rows"] + UNSHIPPED + OPEN
    until(lambda: upgraded.rows() >= wanted, lambda: f"{wanted} rows: {upgraded.rows()}", 30)
    assert upgraded.rows() == wanted
    assert upgraded.rows(outcome="unknown", key_name="app", attempts=0) == OPEN


@pytest.mark.parametrize("door_name", ["fast_lane", "drf"])
def test_keys_and_routes_of_the_release_before_are_served_with_its_credentials(
    upgraded: Upgraded, door_name: str
) -> None:
    door = Door(door_name, upgraded.gateway.url)
    statuses = {(key, model): door.chat(KEYS[key], model).status_code for key, model in STATUSES}
    assert statuses == STATUSES
    seen = upgraded.upstream.calls("main")[-1].headers
    assert seen["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert (seen["x-api-key"], seen["x-team"]) == (HEADER_KEY, "search")


def test_limits_of_the_release_before_hold(upgraded: Upgraded) -> None:
    door = Door("fast_lane", upgraded.gateway.url)
    statuses = [door.chat(KEYS["limited"]).status_code for _ in range(5)]
    assert statuses.count(429) >= 1
    assert statuses[-1] == 429


def test_the_demo_of_the_release_before_still_answers(upgraded: Upgraded) -> None:
    if not upgraded.facts["demo_key"]:
        pytest.skip("only the embedded mode has a demo")
    door = Door("fast_lane", upgraded.gateway.url)
    until(
        lambda: door.chat(upgraded.facts["demo_key"], "demo-echo").status_code == 200, "the demo answers", 20
    )


def test_what_was_kept_encrypted_is_read_with_the_old_keys(upgraded: Upgraded) -> None:
    printed = upgraded.python.run(
        "from monitoring.models import AlertChannel, RequestContent\n"
        "from routing import credentials\n"
        "print(AlertChannel.objects.get(name='hook').secret)\n"
        "row = RequestContent.objects.exclude(encrypted='').first()\n"
        "print('Hello' in credentials.decrypt(row.encrypted))"
    )
    assert printed.split() == ["signs-webhooks", "True"]


def test_all_of_it_agrees_with_the_books(upgraded: Upgraded) -> None:
    assert upgraded.audit() == "The books agree.\n"
