"""Log lines for those who collect logs: JSON, with the ids that find a request."""

import json

import pytest

from routing.compiler import current_version
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.upstream import Answer


def lines_of(gateway):
    """Every line is JSON, whoever wrote it."""
    return [json.loads(line) for line in gateway.log.read_text().splitlines()]


def request_lines(gateway):
    return [line for line in lines_of(gateway) if line["name"] == "switchstand.requests"]


@pytest.fixture(params=["all", "failed", "none"])
def logging_gateway(request, tmp_path, upstream, transactional_db):
    make_target(
        route=make_route(name="gpt"), provider=make_provider(slug="p", base_url=upstream.url("p"), retries=0)
    )
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "LOG_FORMAT": "json", "LOG_REQUESTS": request.param}
    gateway = LiveGateway(tmp_path, env).start()
    yield request.param, gateway
    gateway.stop()


def test_requests_have_lines_as_wanted(logging_gateway, upstream):
    wanted, gateway = logging_gateway
    _, key = make_key(name="app")
    gateway.wait_for_version(current_version())
    door = Door("fast_lane", gateway.url)
    good = door.chat(key, headers={"x-request-id": "good-1"})
    upstream.always("p", Answer(status=500))
    bad = door.chat(key, headers={"x-request-id": "bad-1"})
    ids = {"good-1": good.headers["x-litellm-call-id"], "bad-1": bad.headers["x-litellm-call-id"]}
    kept = {"all": {"good-1", "bad-1"}, "failed": {"bad-1"}, "none": set()}[wanted]
    until(lambda: {line["request_id"] for line in request_lines(gateway)} >= kept, "the lines are there")
    gateway.stop()
    found = {line["request_id"]: line for line in request_lines(gateway)}
    assert set(found) == kept
    for request_id, line in found.items():
        assert line["call_id"] == ids[request_id]
        assert (line["route"], line["provider"], line["key_name"]) == ("gpt", "p", "app")
        assert line["message"].startswith(f"request {request_id}: ")
    if "bad-1" in found:
        assert (found["bad-1"]["status"], found["bad-1"]["error_code"]) == (502, "upstream_error")
    if "good-1" in found:
        assert (found["good-1"]["status"], found["good-1"]["output_tokens"]) == (200, 48)
    assert key not in gateway.log.read_text()
