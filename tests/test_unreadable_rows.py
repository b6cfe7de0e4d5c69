"""One bad row must not take the rest: what can't be read is out and named, all else is served."""

import json
import os
import subprocess
import sys

import pytest
from cryptography.fernet import Fernet
from django.db import connection
from django.urls import reverse

from routing.compiler import compile_table
from routing.models import ApiKey, GatewaySettings, ModelRoute, Provider, RouteTarget, Team
from tests import plain, written_between
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import ROOT, until
from tests.optional import needs

FOREIGN = Fernet(Fernet.generate_key()).encrypt(b"sk-of-another-machine").decode()


def store(row, **columns):
    """As a restored dump or another program would: past all checks of ours."""
    table, pairs = row._meta.db_table, ", ".join(f"{name} = %s" for name in columns)
    values = [json.dumps(value) if isinstance(value, (list, dict)) else value for value in columns.values()]
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA ignore_check_constraints = ON")
        cursor.execute(f"UPDATE {table} SET {pairs} WHERE id = %s", [*values, row.pk])
        cursor.execute("PRAGMA ignore_check_constraints = OFF")
    from routing.publishing import publish_change

    publish_change()


@pytest.fixture
def good(upstream, transactional_db):
    """A route that works, and its key."""
    make_target(route=make_route(name="good"), provider=make_provider(slug="g", base_url=upstream.url("g")))
    return make_key(name="app")[1]


BAD_PROVIDERS = {
    "a credential of another machine": {"encrypted_api_key": FOREIGN},
    "a credential that is no token": {"encrypted_api_key": "nonsense"},
    "secret headers of another machine": {"encrypted_headers": FOREIGN},
    "headers that are a list": {"extra_headers": '["a"]'},
    "a header that is a number": {"extra_headers": {"x-team": 7}},
    "headers that are no JSON": {"extra_headers": "{"},
    "a dialect that there is not": {"dialect": "klingon"},
    "a budget that is no number": {"budget_usd": "much"},
}


@pytest.mark.parametrize("columns", BAD_PROVIDERS.values(), ids=BAD_PROVIDERS)
def test_a_provider_that_cannot_be_read_is_out_and_named_and_all_others_serve(
    door, good, upstream, published, columns
):
    bad = make_provider(slug="bad", base_url=upstream.url("bad"), api_key="sk-upstream-0123456789")
    make_target(route=make_route(name="alone"), provider=bad)
    both = make_route(name="both")
    make_target(route=both, provider=bad)
    make_target(route=both, provider=Provider.objects.get(slug="g"))
    store(bad, **columns)
    published()
    assert door.chat(good, "good").status_code == 200
    assert door.chat(good, "both").status_code == 200
    alone = door.chat(good, "alone")
    assert (alone.status_code, alone.json()["error"]["code"]) == (503, "no_healthy_upstream")
    assert alone.headers["retry-after"] == "5"
    assert upstream.calls("bad") == []
    health = door.client.get("/health").json()
    assert health["providers"] == {"bad": "unhealthy", "g": "healthy"}


def test_readiness_the_admin_and_the_request_say_which_and_why(live, good, upstream, published, admin_client):
    bad = make_provider(slug="bad", base_url=upstream.url("bad"))
    make_target(route=make_route(name="both"), provider=bad, priority=0)
    make_target(
        route=ModelRoute.objects.get(name="both"), provider=Provider.objects.get(slug="g"), priority=1
    )
    store(bad, encrypted_api_key=FOREIGN)
    published()
    stranger = plain.get(f"{live.url}/health/readiness")
    assert (stranger.status_code, stranger.json()) == (200, {"status": "ready", "failed": ["configuration"]})
    [named] = live.readiness()["not_served"]
    assert named.startswith("provider bad: The stored API key can't be decrypted")
    trail = live.manage("explain_route", "both", "--key-name", "app", "--json").stdout
    [first] = [target for target in json.loads(trail)["targets"] if target["provider"] == "bad"]
    assert first["why"].startswith("out until an admin mends it: The stored API key can't be decrypted")
    page = admin_client.get(reverse("admin:routing_provider_change", args=[bad.pk]))
    assert "Nothing is served from it. The stored API key can" in page.content.decode()
    listed = admin_client.get(reverse("admin:routing_provider_changelist")).content.decode()
    assert "not served" in listed
    RouteTarget.objects.filter(provider=bad).delete()
    Provider.objects.filter(pk=bad.pk).delete()
    published()
    assert plain.get(f"{live.url}/health/readiness").json() == {"status": "ready", "failed": []}


def test_the_admins_first_page_names_what_is_not_served(good, admin_client, monkeypatch):
    from routing import notices
    from routing.live import TableKeeper

    keeper = TableKeeper()
    monkeypatch.setitem(notices._sources, "rows", keeper.faults_notice)
    store(make_provider(slug="bad"), encrypted_api_key=FOREIGN)
    keeper.refresh()
    assert keeper.problem == ""
    page = admin_client.get(reverse("admin:index")).content.decode()
    assert "provider bad: The stored API key can" in page


def test_the_page_of_a_provider_with_nonsense_opens_so_that_it_can_be_mended(admin_client):
    bad = make_provider(slug="bad")
    store(bad, extra_headers='["a"]')
    page = admin_client.get(reverse("admin:routing_provider_change", args=[bad.pk]))
    assert page.status_code == 200
    assert "extra_headers" in page.content.decode()


@pytest.mark.parametrize(
    "columns",
    [
        {"default_parameters": '["temperature"]'},
        {"aliases": '"g"'},
        {"content_log": "loud"},
        {"budget_usd": 1, "budget_period": "moon"},
        {"created_at": "yesterday"},
    ],
)
def test_a_route_that_cannot_be_read_is_503_and_no_other_route_takes_its_name(
    door, good, upstream, published, columns
):
    bad = make_route(name="gpt-bad", aliases=["nick"])
    make_target(route=bad, provider=Provider.objects.get(slug="g"))
    make_target(route=make_route(name="gpt-*"), provider=Provider.objects.get(slug="g"))
    store(bad, **columns)
    published()
    assert door.chat(good, "good").status_code == 200
    assert door.chat(good, "gpt-other").status_code == 200
    for headers in ({}, {"x-litellm-route": "g"}):
        refused = door.chat(good, "gpt-bad", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_healthy_upstream")
        assert "an admin must mend the route" in refused.json()["error"]["message"]
    assert any(fault.name == "gpt-bad" for fault in compile_table().faults)


@pytest.mark.parametrize("columns", [{"tags": '"vip"'}, {"tags": "[1]"}, {"input_price": "dear"}])
def test_a_target_that_cannot_be_read_is_skipped_with_the_reason(door, good, published, logged, columns):
    route = make_route(name="two")
    bad = make_target(route=route, provider=Provider.objects.get(slug="g"), upstream_model="b", priority=0)
    make_target(route=route, provider=Provider.objects.get(slug="g"), upstream_model="ok", priority=1)
    store(bad, **columns)
    published()
    answer = door.chat(good, "two")
    assert answer.status_code == 200
    skipped, tried = sorted(logged(answer).attempt_trail, key=lambda entry: entry["model"])
    assert (skipped["model"], tried["model"]) == ("b", "ok")
    assert "out until an admin mends it: What is stored can't be read" in skipped["result"]
    assert "dear" not in str(compile_table().faults)


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (ApiKey, {"tags": '{"a": 1}'}),
        (ApiKey, {"expires_at": "soon"}),
        (ApiKey, {"content_log": "loud"}),
        (Team, {"tags": "7"}),
        (Team, {"budget_usd": 1, "time_zone": "Mars/Phobos"}),
        (Team, {"budget_usd": "much"}),
    ],
)
def test_a_key_that_cannot_be_read_is_503_never_401_and_goes_nowhere(
    door, good, upstream, published, model, columns
):
    row, plaintext = make_key(name="bad", team=make_team(slug="t"))
    store(row if model is ApiKey else row.team, **columns)
    Provider.objects.update(allow_caller_key=True)
    published()
    assert door.chat(good, "good").status_code == 200
    for headers in ({}, {"x-litellm-api-key": plaintext}):
        refused = door.chat(good if headers else plaintext, "good", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
        assert refused.headers["retry-after"] == "2"
    assert door.client.get("/v1/models", headers={"authorization": f"Bearer {plaintext}"}).status_code == 503
    assert door.chat("sk-unknown", "good").status_code == 401
    assert len(upstream.calls("g")) == 1


def test_settings_of_the_gateway_with_nonsense_open_no_origin_and_stop_nothing(door, good, published):
    row = GatewaySettings.objects.create(pk=1)
    store(row, cors_origins='"*"')
    published()
    assert door.chat(good, "good").status_code == 200
    table = compile_table()
    assert table.cors_origins == frozenset()
    assert [fault.kind for fault in table.faults] == ["gateway settings"]


def test_a_mended_row_is_served_again_within_a_second(door, good, upstream, published):
    bad = make_provider(slug="bad", base_url=upstream.url("bad"))
    make_target(route=make_route(name="alone"), provider=bad)
    store(bad, encrypted_api_key=FOREIGN)
    published()
    assert door.chat(good, "alone").status_code == 503
    bad = Provider.objects.get(pk=bad.pk)
    bad.api_key = "sk-typed-anew"
    bad.save()
    until(lambda: door.chat(good, "alone").status_code == 200, "it is served", 3)
    assert RouteTarget.objects.count() == 2


def test_a_table_is_of_one_moment_while_rows_come_and_go(transactional_db):
    for _ in range(4):
        written_between.elsewhere(written_between.add_and_delete)
    written_between.compiled_while_written()


@needs("Postgres")
def test_a_table_is_of_one_moment_on_postgres_too(postgres_server):
    env = os.environ | {"DATABASE_URL": postgres_server.create_database("one_moment", migrated=True)}
    code = "import django; django.setup(); from tests.written_between import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "one state\n", done.stderr[-3000:]
