"""No answer, log, journal, database or page ever holds a credential in plain text."""

import io
import json
import sqlite3
from contextlib import closing

import pytest
from django.contrib import admin
from django.core.management import call_command
from django.urls import NoReverseMatch, reverse

from monitoring.models import RequestLog
from routing.compiler import current_version
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ORIGIN, LiveGateway, ask, until
from tests.test_admin_providers import ADD, form
from tests.upstream import Answer, completion, events

# What is looked for is the middle of each: pages may show the first or last characters.
MIDDLES = {
    "provider": "Qp7provider3Middle",
    "caller": "Xc2caller8Middle",
    "gateway": "Lm5gateway9Middle",
    "master": "Rt4master6Middle",
}
PROVIDER, CALLER, GATEWAY, MASTER = (f"sk-live-01234{middle}-tail" for middle in MIDDLES.values())


def leaks(text):
    return [name for name, middle in MIDDLES.items() if middle in text]


@pytest.fixture
def gateway(tmp_path, transactional_db, upstream):
    env = {
        "DATABASE_URL": f"sqlite:///{TEST_DATABASE}",
        "MASTER_KEY": MASTER,
        "LOG_LEVEL": "DEBUG",
    }
    live = LiveGateway(tmp_path, env).start()
    yield live
    live.stop()


@pytest.fixture
def served(gateway, upstream):
    provider = make_provider(
        slug="p1",
        base_url=upstream.url("p1"),
        api_key=PROVIDER,
        retries=0,
        allow_caller_key=True,
        read_timeout=0.5,
    )
    make_target(route=make_route(name="gpt"), provider=provider)
    zai = make_provider(
        slug="z", base_url=upstream.url("p1"), api_key=PROVIDER, retries=0, dialect="zai", read_timeout=0.5
    )
    make_target(route=make_route(name="glm"), provider=zai)
    make_key(name="app", plaintext=GATEWAY, team=make_team(slug="search"))
    gateway.wait_for_version(current_version())
    return gateway


def echoes(secret):
    """Every way to fail that repeats the credential."""
    error = {"message": f"bad key {secret}", "code": secret, "param": secret, "type": secret}
    escaped = f'{{"error": {{"message": "bad key {secret}"}}}}'.replace("sk-", "\\u0073k-")
    long = {"message": "x" * 1970 + secret}
    event = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    yield from (Answer(status=status, body={"error": error}) for status in (400, 401, 403, 404, 429, 500))
    yield Answer(status=400, body={"error": long})
    yield Answer(status=422, body=escaped.encode())
    yield Answer(status=400, body={"error": secret})
    yield Answer(status=400, body=secret.encode())
    yield Answer(status=302, headers={"location": f"http://127.0.0.1:9/?key={secret}"})
    yield Answer(status=429, headers={"retry-after": secret})
    yield Answer(body={"error": error})
    yield Answer(body=f'{{"id": "{secret}'.encode())
    yield Answer(garbage=f"{secret}\r\n\r\n".encode())
    yield Answer(garbage=f"HTTP/1.1 200 OK\r\n{secret}\r\n\r\n".encode())
    yield Answer(chunks=[event])
    yield Answer(chunks=[*events("a", done=False, finish=False), event], gap=0.05)
    yield Answer(chunks=events("a", done=False, finish=False), tail=secret.encode(), stall=0.05)
    yield Answer(cut="before_headers", reset=True)
    yield Answer(delay=2)


def presented():
    """Every way to present keys, good and bad."""
    yield {"authorization": f"Bearer {GATEWAY}"}
    yield {"x-api-key": GATEWAY}
    yield {"api-key": GATEWAY}
    yield {"x-litellm-api-key": GATEWAY}
    yield {"authorization": f"Bearer {MASTER}"}
    yield {"authorization": f"Bearer {GATEWAY}", "x-litellm-api-key": CALLER}
    yield {"authorization": f"Bearer {GATEWAY}", "x-litellm-api-key": MASTER}
    yield {"authorization": f"Bearer {CALLER}"}
    yield {"authorization": f"Basic {GATEWAY}"}
    yield {"authorization": f"Bearer {GATEWAY}", "x-request-id": "two words"}
    yield {"authorization": f"Bearer {GATEWAY}", "x-litellm-timeout": "never"}


@pytest.fixture
def client(served):
    """Keeps all that was answered."""
    answers = []

    def call(content, headers, *, model="gpt", path="/v1/chat/completions"):
        for origin in ({}, {"origin": ORIGIN}):
            answer = plain.post(
                served.url + path, content=content or ask(model), headers=origin | headers, timeout=20
            )
            answers.append(f"{answer.status_code} {answer.headers} {answer.text}")
            if answer.status_code not in (401, 404):  # of strangers' calls and unknown paths few leave a row
                call.request_ids.append(answer.headers["x-request-id"])
        return answer

    call.answers, call.request_ids = answers, []
    return call


def run_them_all(client, upstream):
    for headers in presented():
        for stream in (False, True):
            client(ask("gpt", stream=stream), headers)
        client(b"{not json", headers)
        client(ask("gpt"), headers, path="/v1/nothing")
        client(ask("unknown"), headers)
    for secret, headers in (
        (PROVIDER, {"authorization": f"Bearer {GATEWAY}"}),
        (PROVIDER, {"authorization": f"Bearer {MASTER}"}),
        (CALLER, {"authorization": f"Bearer {GATEWAY}", "x-litellm-api-key": CALLER}),
    ):
        for answer in echoes(secret):
            upstream.always("p1", answer)
            for stream in (False, True):
                client(ask("gpt", stream=stream), headers)
        if secret == PROVIDER:
            for answer in echoes(secret):
                upstream.always("p1", answer)
                client(ask("glm"), headers)
    upstream.always("p1", Answer(body=completion()))
    assert client(ask("gpt"), {"authorization": f"Bearer {GATEWAY}"}).status_code == 200


def pages(admin_client):
    """Every page of the admin: lists, forms, histories, deletions."""
    yield "index", admin_client.get(reverse("admin:index")).content.decode()
    for model, options in admin.site._registry.items():
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        urls = [reverse(f"{name}_changelist"), reverse(f"{name}_changelist") + "?q=sk-live"]
        for kind in ("add",):
            urls += _urls(f"{name}_{kind}")
        for row in options.get_queryset(_request(admin_client))[:50]:
            for kind in ("change", "history", "delete"):
                urls += _urls(f"{name}_{kind}", row.pk)
        for url in urls:
            answer = admin_client.get(url, follow=True)
            assert answer.status_code in (200, 403), url
            yield url, answer.content.decode()


def _urls(name, *arguments):
    try:
        return [reverse(name, args=arguments)]
    except NoReverseMatch:
        return []


def _request(admin_client):
    return admin_client.get(reverse("admin:index")).wsgi_request


def test_no_credential_gets_out(served, client, upstream, admin_client, tmp_path):
    run_them_all(client, upstream)
    they_were_in_use(upstream)
    rows = RequestLog.objects.filter(
        request_id__in=client.request_ids
    )  # others may still come from elsewhere
    until(lambda: rows.count() == len(client.request_ids), "the rows are shipped", 30)

    assert [answer for answer in client.answers if leaks(answer)] == []
    assert leaks(served.log.read_text()) == []
    journal = b"".join(path.read_bytes() for path in (tmp_path / "journal").rglob("*.journal"))
    assert b"upstream_auth_failed" in journal
    assert leaks(journal.decode()) == []

    assert admin_client.post(ADD, form(slug="made", new_api_key=PROVIDER)).status_code == 302
    found = dict(pages(admin_client))
    assert "…tail" in "".join(found.values())
    assert GATEWAY[:10] in "".join(found.values())
    assert {url: leaks(page) for url, page in found.items() if leaks(page)} == {}
    for path in ("/health", "/health/readiness", "/api/schema", "/v1/models", "/metrics"):
        assert leaks(plain.get(served.url + path, headers={"authorization": f"Bearer {MASTER}"}).text) == []

    output = io.StringIO()
    call_command("dump_config", stdout=output)
    assert "encrypted:" in output.getvalue()
    assert leaks(output.getvalue()) == []
    dump = database_dump()
    assert "upstream_auth_failed" in dump
    assert "django_admin_log" in dump
    assert leaks(dump) == []


def they_were_in_use(upstream):
    """The providers' credentials were really sent to them, the gateway's own keys never."""
    sent = [f"{seen.path} {seen.headers} {seen.body!r}" for seen in upstream.calls("p1")]
    assert any(PROVIDER in request for request in sent)
    assert any(CALLER in request for request in sent)
    assert not any(GATEWAY in request or MASTER in request for request in sent)


def database_dump():
    with closing(sqlite3.connect(TEST_DATABASE)) as database:
        return "\n".join(database.iterdump())


def test_the_search_would_find_a_credential():
    for name, secret in zip(MIDDLES, (PROVIDER, CALLER, GATEWAY, MASTER), strict=True):
        assert leaks(f"... {secret} ...") == [name]
