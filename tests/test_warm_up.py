"""What a process does before it says that it is ready."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ROOT
from tests.upstream import FakeUpstream


@pytest.mark.django_db(transaction=True)
def test_the_first_requests_import_nothing(upstream: FakeUpstream, transport: str, tmp_path: object) -> None:
    provider = make_provider(slug="p", base_url=upstream.url("p"), health_check_enabled=False)
    make_target(route=make_route(name="gpt"), provider=provider)
    make_provider(slug="idle", base_url=upstream.url("idle"), health_check_enabled=False)
    env = os.environ | {
        "DATA_DIR": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "UPSTREAM_TRANSPORT": transport,
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.first_request", make_key()[1]],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["statuses"] == [200] * 4
    assert found["imported"] == []
    assert len(upstream.calls("p")) == 4
    assert "idle" not in upstream.seen
