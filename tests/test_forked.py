"""Ids of processes that were forked from one parent."""

import os
import subprocess
import sys

import pytest

from tests.live import ROOT

MANY = 1_000_000 if os.environ.get("LONG_TESTS") else 50_000

FORKED_TWICE = """
import os, sys
import django
django.setup()
from MODULE import NAME
many, pipes = int(sys.argv[1]), []
for _ in range(2):
    reading, writing = os.pipe()
    if os.fork() == 0:
        with open(writing, "w") as out:
            for _ in range(many):
                print(MAKE, file=out)
        os._exit(0)
    os.close(writing)
    pipes.append(reading)
found = []
for reading in pipes:
    with open(reading) as lines:
        found.append(set(lines))
print(*map(len, found), len(found[0] & found[1]))
"""


@pytest.mark.parametrize(
    ("module", "name", "make", "many"),
    [
        ("proxy.ids", "uuid7", "uuid7(1_700_000_000_000_000_000)", MANY),
        ("proxy.calls.trace", "_dice", "_dice.getrandbits(64)", 1000),
        ("monitoring.health.schedule", "_dice", "_dice.random()", 1000),
    ],
    ids=["rows", "spans", "checks"],
)
def test_two_children_of_one_parent_have_nothing_in_common_in_one_millisecond(
    module: str, name: str, make: str, many: int
) -> None:
    code = FORKED_TWICE.replace("MODULE", module).replace("NAME", name).replace("MAKE", make)
    env = os.environ | {"DJANGO_SETTINGS_MODULE": "gateway_project.settings"}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(many)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.stdout.split() == [str(many), str(many), "0"], ran.stderr
