"""Fixtures: a scripted provider, a live gateway beside the test's database, both doors."""

import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from tests import optional
from tests.emptying import empty_quickly
from tests.environment import DATA_DIR
from tests.live import Door, LiveGateway, until
from tests.served import Served
from tests.services import PostgresServer, RedisServer, scratch
from tests.upstream import FakeUpstream

TEST_DATABASE = DATA_DIR / "test.sqlite3"
MIGRATED = DATA_DIR / "migrated.sqlite3"
SLOW = (
    "test_monitoring_whole",
    "test_serve_ends",
    "test_limits_minute",
    "test_endings",
    "test_outage",
    "test_limits_live",
    "test_faults",
    "test_serve",
    "test_tracing",
    "test_errors",
    "test_journal_kill",
    "test_metrics",
    "test_no_credentials",
    "test_repricing",
    "test_alerts",
    "test_heartbeats",
    "test_abandoned",
    "test_log_retention",
    "test_health_checks",
    "test_config_roundtrip",
    "test_postgres",
    "test_upgrade",
    "test_long_writes",
    "test_client_openai_python",
    "test_fast_lane",
    "test_body_bounds",
    "test_slow_readers",
    "test_breaker",
    "test_split_over_http",
    "test_audit_books",
    "test_transports",
)
"""Files in the order in which workers get them; those that start many processes are not side by side."""


def pytest_configure(config: pytest.Config) -> None:
    # A file, not memory: the live gateway's process opens the same database.
    settings.DATABASES["default"].setdefault("TEST", {})["NAME"] = str(TEST_DATABASE)
    empty_quickly()
    optional.check_required()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute begins first, so that no worker has it left when the others are done."""
    places = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path.stem, len(SLOW)))


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(DATA_DIR, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(optional.report())


@pytest.fixture(scope="session")
def django_db_modify_db_settings_parallel_suffix() -> None:
    """Workers that run tests side by side have a DATA_DIR each: their databases need no other names."""


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None) -> None:
    """Besides, keeps a copy of the new database: others begin with it and need not migrate theirs."""
    with closing(sqlite3.connect(TEST_DATABASE)) as new, closing(sqlite3.connect(MIGRATED)) as copy:
        new.backup(copy)


@pytest.fixture
def migrated(django_db_setup: None, tmp_path: Path) -> Path:
    """A DATA_DIR for `make serve` in which all tables are made; nothing else is as a first start finds it."""
    directory = tmp_path / "data"
    directory.mkdir()
    shutil.copy(MIGRATED, directory / "switchstand.sqlite3")
    return directory


@pytest.fixture(autouse=True)
def no_gateway_is_left() -> Iterator[None]:
    """Pages start the gateway of this process where none runs; a later test would see its old table."""
    from proxy.gateway import current_gateway, stop_gateway

    before = current_gateway()
    yield
    if before is None and current_gateway() is not None:
        stop_gateway()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """Only for tests marked needs("Redis"); one that stops it must start it again."""
    with scratch("redis") as directory:
        server = RedisServer(directory).start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Only for tests marked needs("Postgres"); one that stops it must start it again."""
    with scratch("postgres") as directory:
        server = PostgresServer(directory).start()
        yield server
        server.stop()


@pytest.fixture(scope="session")
def upstream_server() -> Iterator[FakeUpstream]:
    server = FakeUpstream()
    yield server
    server.close()


@pytest.fixture
def upstream(upstream_server: FakeUpstream) -> FakeUpstream:
    upstream_server.clear()
    return upstream_server


@pytest.fixture(scope="session", params=["fast", "httpx"])
def transport(request: pytest.FixtureRequest) -> str:
    """Ask for it to run a test over both transports."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def started(django_db_setup: None) -> Iterator[dict[str, LiveGateway]]:
    """The gateways that many tests share, by transport."""
    found: dict[str, LiveGateway] = {}
    yield found
    for gateway in found.values():
        gateway.stop()


@pytest.fixture
def own_log(started: dict[str, LiveGateway], transactional_db: None) -> None:
    """For tests that look at all rows: those of earlier tests, which are shipped late, are gone."""
    from monitoring.models import RequestLog, RowSeal, StaleHour, UsageHour

    for gateway in started.values():
        gateway.wait_until_shipped()
    for model in (RequestLog, RowSeal, StaleHour, UsageHour):
        model.objects.all().delete()


@pytest.fixture(scope="session")
def gateways(started: dict[str, LiveGateway]) -> Callable[[str], LiveGateway]:
    """Live gateways by transport, started when first asked for."""

    def get(transport: str) -> LiveGateway:
        if transport not in started:
            directory = DATA_DIR / f"gateway-{transport}"
            directory.mkdir()
            env = {
                "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
                "UPSTREAM_TRANSPORT": transport,
                "DJANGO_SETTINGS_MODULE": "tests.quick_settings",
            }
            started[transport] = LiveGateway(directory, env).start()
        return started[transport]

    return get


@pytest.fixture
def live(gateways: Callable[[str], LiveGateway], transactional_db: None) -> LiveGateway:
    return gateways("fast")


@pytest.fixture
def live_on(gateways: Callable[[str], LiveGateway], transport: str, transactional_db: None) -> LiveGateway:
    return gateways(transport)


@pytest.fixture(params=["fast_lane", "drf"])
def door(request: pytest.FixtureRequest, live: LiveGateway) -> Door:
    return Door(request.param, live.url)


@pytest.fixture
def connect(live):
    """Opens connections to the gateway, and closes them."""
    opened = []

    def make(port=live.port, **options):
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        for name, value in options.items():
            client.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        opened.append(client)
        return client

    yield make
    for client in opened:
        client.close()


@pytest.fixture
def published(live: LiveGateway) -> Callable[[], None]:
    """Call it after changing rows: waits until the live gateway serves them."""

    def wait() -> None:
        from routing.compiler import current_version

        live.wait_for_version(current_version())

    return wait


@pytest.fixture
def logged(live: LiveGateway) -> Callable[[Any], Any]:
    """The request log's row of a response, once it is shipped."""

    def find(response: Any) -> Any:
        from monitoring.models import RequestLog

        wanted = response.headers["x-litellm-call-id"]
        return until(lambda: RequestLog.objects.filter(id=wanted).first(), f"the row of call {wanted}")

    return find


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Starts `make serve` in the test's own directory; the test ends it."""
    started: list[Served] = []

    def make(**options: Any) -> Served:
        started.append(Served(tmp_path / "data", **options).begin())
        return started[-1]

    yield make
    for gateway in started:
        gateway.kill()


@pytest.fixture
def start(begin: Callable[..., Served]) -> Callable[..., Served]:
    """The same, once it is ready."""

    def make(**options: Any) -> Served:
        gateway: Served = begin(**options).wait_until_ready()
        return gateway

    return make
