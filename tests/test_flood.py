"""The benchmark of attacks in its short form: its exact bounds, not its times."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.flood.__main__ import Scene, exact
from benchmarks.flood.attacks import FLOODS, Flood
from benchmarks.servers import Servers

SECONDS = 1.5

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the gateway needs a core of its own")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    scratch: Path = tmp_path_factory.mktemp("flood")
    with Servers(scratch) as servers:
        yield Scene(servers, scratch, SECONDS)


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.name)
def test_an_attack_costs_neither_memory_nor_rows_nor_lines_nor_the_loop(scene: Scene, flood: Flood) -> None:
    seen = scene.run(flood, flood.attack)
    assert seen.requests
    assert exact(flood, seen) == [], seen
