"""What somebody new meets: pages for browsers, plain answers for paths that are none, headers of any SDK."""

import pytest

from monitoring.models import RequestLog
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import ORIGIN

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def gpt(upstream, published):
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    _, key = make_key(name="app")
    published()
    return key


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions/", "/chat/completions/", "/api/llm/chat/completions/"]
)
def test_a_slash_at_the_end_is_served(door, gpt, path):
    assert door.chat(gpt, path=path).status_code == 200
    assert door.get("/v1/models/", gpt).json()["data"][0]["id"] == "gpt"


def test_a_call_with_a_key_to_what_is_no_endpoint_leaves_a_row_with_the_key(door, gpt, logged):
    row = logged(door.chat(gpt, path="/v1/nothing"))
    found = row.key_name, row.endpoint, row.error_code, row.status, row.outcome
    assert found == ("app", "unknown", "unknown_endpoint", 404, "refused")


def test_strangers_leave_no_rows_of_their_own_paths(live, door, gpt):
    before = RequestLog.objects.filter(endpoint="unknown", key_id=None).count()
    for number in range(12):
        assert door.chat(None, path=f"/nothing-{number}").status_code == 404
        assert door.chat("sk-wrong-0000000000000", path=f"/v1/nothing-{number}").status_code == 404
    live.wait_until_shipped()
    rows = RequestLog.objects.filter(endpoint="unknown", key_id=None)
    assert rows.count() - before <= 10  # five a minute, and a minute may begin meanwhile
    assert "nothing-" not in str(list(rows.values()))


PLANNED = [
    "/v1/responses",
    "/v1/responses/resp_1",
    "/v1/embeddings",
    "/embeddings",
    "/api/llm/audio/speech",
    "/v1/images/edits",
    "/openai/deployments/gpt/chat/completions",
    "/passthrough/p1/v1/anything",
    "/v1/files/f/content",
]


@pytest.mark.parametrize("path", PLANNED)
def test_what_is_planned_gets_501(door, gpt, path):
    answer = door.chat(gpt, path=path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "not_implemented")
    assert answer.headers["x-should-retry"] == "false"


def test_501_has_the_shape_that_its_callers_read(door, gpt):
    anthropic = door.chat(gpt, path="/v1/messages?beta=true").json()
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "invalid_request_error")
    gemini = door.chat(gpt, path="/v1beta/models/gemini-pro:generateContent").json()["error"]
    assert (gemini["code"], gemini["status"]) == (501, "UNIMPLEMENTED")


@pytest.mark.parametrize(
    ("path", "to"),
    [("/admin", "/admin/"), ("/docs", "/api/docs"), ("/favicon.ico", "/static/switchstand/favicon.svg")],
)
def test_what_browsers_try_first_leads_where_it_should(live, path, to):
    answer = plain.get(f"{live.url}{path}", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (302, to)


def test_the_first_page_says_what_this_is_and_what_to_try(live):
    page = plain.get(f"{live.url}/", headers=HTML)
    assert page.status_code == 200
    for word in (
        "LLM gateway",
        "/admin/",
        "/api/docs",
        "/status",
        "first-run.txt",
        f"curl {live.url}/v1/chat",
    ):
        assert word in page.text


def test_a_browser_gets_404_as_a_page_and_a_program_as_json(live):
    page = plain.get(f"{live.url}/nothing", headers=HTML)
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (404, "text/html")
    assert plain.get(f"{live.url}/nothing").json()["error"]["code"] == "unknown_endpoint"


def preflight(live, path, asked, origin=ORIGIN):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": asked,
    }
    return plain.Client(base_url=live.url).request("OPTIONS", path, headers=headers)


SDKS = "x-session-id, idempotency-key, http-referer, x-title, x-stainless-poll-helper, content-type"


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/api/llm/chat/completions", "/v1/models", "/v1/responses"]
)
def test_a_preflight_is_allowed_what_it_asks_for(live, path):
    assert preflight(live, path, SDKS).headers["access-control-allow-headers"] == SDKS


@pytest.mark.parametrize("asked", [", ".join(f"x-{n}" for n in range(65)), "x" * 65, "a b", "x-é"])
def test_but_not_more_than_that(live, asked):
    allowed = preflight(live, "/v1/chat/completions", asked.encode("latin-1")).headers[
        "access-control-allow-headers"
    ]
    assert "x-litellm-route" in allowed
    assert "x-64" not in allowed


def test_nor_another_origin_or_path(live):
    other = preflight(live, "/v1/chat/completions", SDKS, "http://evil.test").headers
    assert "access-control-allow-headers" not in other
    assert "x-title" not in preflight(live, "/health", SDKS).headers["access-control-allow-headers"]
    assert "access-control-allow-headers" not in preflight(live, "/admin/", SDKS).headers
