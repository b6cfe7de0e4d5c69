"""How `make test` deals tests out to its workers: file by file, the slow ones first and in small units."""

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

SLOW = (
    "test_limits_minute",
    "test_monitoring_whole",
    "test_serve_ends",
    "test_serve",
    "test_limits_live",
    "test_no_credentials",
    "test_outage",
    "test_endings",
    "test_repricing",
    "test_journal_kill",
    "test_metrics",
    "test_alerts",
    "test_heartbeats",
    "test_config_roundtrip",
    "test_log_retention",
    "test_abandoned",
    "test_health_checks",
    "test_one_healthy_target",
    "test_split_over_http",
    "test_postgres",
    "test_target_sharing",
    "test_audit_books",
    "test_no_leaks",
    "test_transports",
)
"""Slowest first: what takes a minute must not be left to one worker when the others are done."""

TEST_BY_TEST = {
    "test_endings",
    "test_journal_kill",
    "test_monitoring_whole",
    "test_outage",
    "test_repricing",
    "test_serve_ends",
}
"""Files of slow tests that share nothing, not even a started gateway."""


def slow_first(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.stem, len(SLOW)))


class _Dealing(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        name = file.rsplit("/", 1)[-1].removesuffix(".py")
        return nodeid if name in TEST_BY_TEST else file


def scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """None leaves it to --dist."""
    return _Dealing(config, log) if config.getvalue("dist") == "loadfile" else None
