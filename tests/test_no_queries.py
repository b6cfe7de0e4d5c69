"""The request path asks the database nothing, through either door."""

import threading
from contextlib import contextmanager

import pytest
import uvicorn
from django.db.backends.utils import CursorWrapper

from gateway_project import web
from proxy import engine
from proxy.gateway import running_gateway, stop_gateway
from routing.compiler import current_version
from routing.models import RoutingVersion
from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ORIGIN, ask, free_port, until
from tests.upstream import Answer

OFF_THE_PATH = {"routing-table"}
"""Threads that may ask: the table keeper's. The shipper is a process of its own."""


@pytest.fixture
def queries(monkeypatch):
    """(thread, SQL) of each query of this process, except the test's own and those off the path."""
    found = []
    tests_own = threading.current_thread()

    def watched(name):
        original = getattr(CursorWrapper, name)

        def call(self, sql, *arguments):
            thread = threading.current_thread()
            if thread is not tests_own and thread.name not in OFF_THE_PATH:
                found.append((thread.name, str(sql)))
            return original(self, sql, *arguments)

        return call

    for name in ("execute", "executemany", "callproc"):
        monkeypatch.setattr(CursorWrapper, name, watched(name))
    return found


@contextmanager
def serving_in_this_process():
    """The web process's own server, in a thread of ours."""
    stop_gateway()
    port = free_port()
    server = uvicorn.Server(web.config("127.0.0.1", port, workers=1, drain_seconds=1))
    thread = threading.Thread(target=server.run, name="serving")
    thread.start()
    try:
        until(lambda: server.started, "the server has started")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def key(upstream, transactional_db):
    route = make_route(name="gpt")
    for slug in ("down", "p1"):
        provider = make_provider(
            slug=slug, base_url=upstream.url(slug), api_key="k", retries=0, rpm=100000, allow_caller_key=True
        )
        make_target(route=route, provider=provider, priority=1 if slug == "down" else 2)
    upstream.always("down", Answer(status=500))
    _, plaintext = make_key(allowed_routes=[route], rpm=100000, team=make_team(tpm=10**9))
    return plaintext


def ask_everything(url, key):
    """Good and bad requests through both doors; returns the statuses seen."""
    seen = set()
    for origin in ({}, {"origin": ORIGIN}):
        with plain.Client(base_url=url, headers=origin) as client:
            good = {"authorization": f"Bearer {key}"}
            for headers in (good, {"authorization": "Bearer unknown"}, {**good, "x-litellm-api-key": "own"}):
                for content in (ask("gpt"), ask("gpt", stream=True), ask("unknown"), b"{"):
                    seen.add(
                        client.post("/v1/chat/completions", content=content, headers=headers).status_code
                    )
            for path in ("/v1/models", "/v1/models/gpt", "/v1/nothing", "/health", "/health/readiness"):
                seen.add(client.get(path, headers=good).status_code)
            preflight = {"access-control-request-method": "POST"} | origin
            seen.add(client.options("/v1/chat/completions", headers=preflight).status_code)
    return seen


def test_no_request_asks_the_database(key, queries):
    with serving_in_this_process() as url:
        until(lambda: running_gateway().keeper.table.version == current_version(), "the table is warm")
        queries.clear()
        assert ask_everything(url, key) >= {200, 400, 401, 404}
        assert queries == []


@pytest.mark.parametrize("origin", [{}, {"origin": ORIGIN}], ids=["fast_lane", "drf"])
def test_a_query_on_the_path_would_be_noticed(key, queries, monkeypatch, origin):
    resolve = engine.resolve

    def asking(call):
        RoutingVersion.objects.count()
        return resolve(call)

    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    with serving_in_this_process() as url:
        until(lambda: running_gateway().keeper.table.version == current_version(), "the table is warm")
        monkeypatch.setattr(engine, "resolve", asking)
        queries.clear()
        answer = plain.post(
            f"{url}/v1/chat/completions",
            content=ask("gpt"),
            headers={"authorization": f"Bearer {key}"} | origin,
        )
        assert answer.status_code == 200
        assert len(queries) == 1
        assert "routing_routingversion" in queries[0][1]
