"""A gateway as users start it serves an edit within a second, through both doors."""

import time

import pytest

from routing.compiler import current_version
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway


@pytest.mark.parametrize("door_name", ["fast_lane", "drf"])
def test_an_edit_is_live_within_a_second(door_name, upstream, transactional_db, tmp_path):
    target = make_target(
        route=make_route(name="gpt"),
        provider=make_provider(slug="p1", base_url=upstream.url("p1")),
        upstream_model="old-model",
    )
    _, key = make_key()
    gateway = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"}).start()
    try:
        gateway.wait_for_version(current_version())
        door = Door(door_name, gateway.url)
        door.chat(key)
        target.upstream_model = "new-model"
        target.save()
        time.sleep(1)
        door.chat(key)
    finally:
        gateway.stop()
    assert [seen.json["model"] for seen in upstream.calls("p1")] == ["old-model", "new-model"]
