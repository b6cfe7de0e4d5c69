"""The benchmark of attacks in its short form: its exact bounds, not its times."""

import os
import subprocess
import sys

import pytest

from tests.live import ROOT

pytestmark = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="the gateway needs a core of its own")


def test_a_header_without_end_costs_neither_memory_nor_rows_nor_the_loop() -> None:
    command = [sys.executable, "-m", "benchmarks.flood", "--seconds", "2", "--only", "68 MB"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert "| one header of 68 MB |" in done.stdout, done.stderr
    said = done.stderr.partition("does not hold:")[2]
    assert not {"memory", "rows", "lines", "loop"} & set(said.replace(",", " ").split()), said
