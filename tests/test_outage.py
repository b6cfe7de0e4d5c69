"""A database that is stopped or locked under load: no request fails, and afterwards each one is a row.

OUTAGE_SECONDS makes it longer. How latency takes it is measured by `python -m benchmarks.outage`.
"""

import os

import pytest

from benchmarks.outage import KINDS, measure
from tests.optional import needs

SECONDS = float(os.environ.get("OUTAGE_SECONDS", "6"))


@pytest.mark.parametrize("kind", [pytest.param("postgres", marks=needs("Postgres")), "sqlite"])
def test_an_outage_of_the_database_costs_no_request_and_no_row(kind, tmp_path):
    with KINDS[kind]() as database:
        found = measure(database, tmp_path, calm=2, outage=SECONDS, rate=25)
    print("\n".join(found.lines()))
    assert found.failures == []
    assert len(found.times["during"]) > 10 * SECONDS
    assert found.rows == found.requests
