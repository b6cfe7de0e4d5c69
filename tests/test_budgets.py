"""Budgets and limits of one process, through both doors, the admin and the commands."""

import re
import sqlite3
import tracemalloc
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import call_command
from django.db import connection
from django.urls import reverse

from monitoring.budgets.periods import update
from monitoring.budgets.spending import spent
from monitoring.models import RequestLog
from monitoring.shipping.storing import store
from proxy.journal.records import to_line
from routing import notices
from routing.config import dumper, loader
from routing.limit_owners import limit_owners_of
from routing.models import ApiKey, ModelRoute, RouteTarget, Team
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import until
from tests.test_journal_faults import closed
from tests.upstream import Answer, completion


def used(tokens, prompt=10):
    return completion(usage={"prompt_tokens": prompt, "completion_tokens": tokens})


@pytest.fixture
def priced(upstream):
    """A route gpt whose answer tokens cost 10 USD per million; makes others like it."""

    def make(name="gpt", provider="p1", output_price="10", **values):
        route = make_route(name=name, **values)
        make_target(
            route=route,
            provider=make_provider(base_url=upstream.url(provider), retries=0),
            upstream_model=f"own-{name}",
            input_price="0",
            output_price=output_price,
        )
        return route

    return make


@pytest.mark.parametrize("owner", ["key", "team", "route", "target", "provider"])
def test_every_owner_can_have_a_budget(door, upstream, published, priced, owner):
    route = priced()
    row, key = make_key(name="app", team=make_team(slug="search"))
    target = route.targets.get()
    limited = {"key": row, "team": row.team, "route": route, "target": target, "provider": target.provider}
    limited[owner].budget_usd, limited[owner].budget_period = "0.02", "month"
    limited[owner].save()
    published()
    upstream.always("p1", Answer(body=used(1000)))
    assert [door.chat(key, max_tokens=1000).status_code for _ in range(2)] == [200, 200]
    refused = door.chat(key, max_tokens=1)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (
        429,
        "insufficient_quota",
        "rate_limit_error",
    )
    assert "has spent its budget of 0.02 USD a month" in error["message"]
    assert int(refused.headers["retry-after"]) > 0


def test_a_request_that_fails_costs_nothing(door, upstream, published, priced):
    priced()
    _, key = make_key(budget_usd="0.01")
    published()
    upstream.always("p1", Answer(status=500, body={"error": {"message": "no"}}))
    assert [door.chat(key, max_tokens=1000).status_code for _ in range(3)] == [502, 502, 502]
    upstream.always("p1", Answer(body=used(1000)))
    assert door.chat(key, max_tokens=1000).status_code == 200


def test_answers_are_bounded_by_the_reservation_where_a_budget_applies(door, upstream, published, priced):
    priced(max_output_tokens=100)
    _, key = make_key(budget_usd="1")
    _, free = make_key()
    published()
    door.chat(key)
    door.chat(key, max_completion_tokens=7)
    door.chat(free)
    bodies = [seen.json for seen in upstream.calls("p1")]
    assert [body.get("max_tokens") for body in bodies] == [100, None, None]


def test_each_of_n_answers_is_reserved(door, upstream, published, priced):
    priced()
    _, key = make_key(budget_usd="0.03")
    published()
    assert door.chat(key, max_tokens=1000, n=4).status_code == 429
    assert door.chat(key, max_tokens=1000, n=3).status_code == 200


def test_a_limit_below_zero_is_reserved_as_none_and_lifts_no_budget(door, upstream, published, priced):
    priced(max_output_tokens=1000)
    _, key = make_key(budget_usd="0.03")
    published()
    assert door.chat(key, max_tokens=-1).status_code == 200
    assert upstream.calls("p1")[-1].json["max_tokens"] == 1000
    _, poor = make_key(budget_usd="0.000001")
    published()
    assert door.chat(poor, max_tokens=-1).status_code == 429


def test_a_budget_needs_a_known_price(door, upstream, published):
    make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("p1")))
    _, key = make_key(budget_usd="1")
    published()
    answer = door.chat(key)
    error = answer.json()["error"]
    found = answer.status_code, error["code"], error["gateway_code"]
    assert found == (503, "price_unknown", "SERVICE_UNAVAILABLE")
    assert answer.headers["x-should-retry"] == "false"
    assert "an admin must set the target's prices" in error["message"]


def test_a_cheaper_route_serves_where_a_limit_keeps_the_call_out(door, upstream, published, priced):
    cheap = priced("mini", "p2", output_price="0.1")
    priced(over_limit_route=cheap)
    _, key = make_key(budget_usd="0.01", rpm=3)
    published()
    upstream.always("p1", Answer(body=used(900)))
    upstream.always("p2", Answer(body=used(10)))
    first, second, third = [door.chat(key, max_tokens=1000) for _ in range(3)]
    assert [answer.headers["x-litellm-model-group"] for answer in (first, second, third)] == [
        "gpt",
        "mini",
        "mini",
    ]
    fourth = door.chat(key, max_tokens=1000)  # the key's own limit holds for all routes
    assert (fourth.status_code, fourth.json()["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_key_never_reaches_a_route_that_it_may_not_use(door, published, priced):
    route = priced(over_limit_route=priced("mini", "p2", output_price="0"))
    _, key = make_key(budget_usd="0", allowed_routes=[route])
    published()
    assert door.chat(key).status_code == 429


def test_limits_of_a_route_hold_for_all_keys(door, published, priced):
    priced(rpm=2)
    keys = [make_key()[1] for _ in range(3)]
    published()
    answers = [door.chat(key) for key in keys]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "2"
    assert answers[2].headers["x-ratelimit-remaining-requests"] == "0"
    assert "Route gpt is at its limit of 2 requests per minute" in answers[2].json()["error"]["message"]


def test_a_full_target_is_passed_over(door, upstream, published, priced):
    route = priced()
    RouteTarget.objects.update(rpm=1)
    make_target(route=route, provider=make_provider(base_url=upstream.url("p2")), priority=2)
    _, key = make_key()
    published()
    assert [door.chat(key).status_code for _ in range(3)] == [200, 200, 200]
    assert (len(upstream.calls("p1")), len(upstream.calls("p2"))) == (1, 2)


def test_a_retry_counts_against_the_target(door, upstream, published, priced):
    route = priced()
    route.targets.get().provider.__class__.objects.update(retries=3, retry_delay=0)
    RouteTarget.objects.update(rpm=2)
    _, key = make_key()
    published()
    upstream.always("p1", Answer(status=500, body={"error": {"message": "no"}}))
    assert door.chat(key).status_code == 502
    assert len(upstream.calls("p1")) == 2


def test_wrong_keys_from_one_address_are_limited_and_good_ones_never(upstream, published, priced, gateways):
    """Counted per process, so this one has its own."""
    from tests.conftest import TEST_DATABASE
    from tests.environment import DATA_DIR
    from tests.live import Door, LiveGateway

    priced()
    _, key = make_key()
    published()
    directory = DATA_DIR / "failed-auth"
    directory.mkdir()
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "AUTH_FAILURES_PER_MINUTE": "5"}
    gateway = LiveGateway(directory, env).start()
    try:
        fast, drf = Door("fast_lane", gateway.url), Door("drf", gateway.url)
        found = [door.chat("sk-wrong").status_code for door in (fast, drf, fast, drf)]
        found += [drf.get("/v1/models", "sk-wrong").status_code]
        assert found == [401] * 5
        for answer in (fast.chat("sk-wrong"), drf.chat(None), drf.get("/v1/models", "sk-wrong")):
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "rate_limit_exceeded"
            assert 0 < int(answer.headers["retry-after"]) <= 61
        assert fast.chat(key).status_code == 200
        assert drf.get("/v1/models", key).status_code == 200
    finally:
        gateway.stop()


def log(row, cost_nano, **values):
    store([closed(key_id=row.pk, cost_nano_usd=cost_nano, **values)])


def key_form(row, **values):
    return {
        "name": row.name,
        "team": "",
        "expires_at_0": "",
        "expires_at_1": "",
        "enabled": "on",
        "rpm": "",
        "tpm": "",
        "parallel": "",
        "budget_usd": row.budget_usd,
        "budget_period": row.budget_period,
        "initial-budget_usd": row.budget_usd or "",
        "top_up": "",
        **values,
    }


def test_topping_up_adds_to_the_limit_and_the_history_says_so(admin_client):
    row, _ = make_key(budget_usd=Decimal(10))
    log(row, 9 * 10**9)
    log(row, 10**9, shadow=True)  # a copy, which no key pays for
    url = reverse("admin:routing_apikey_change", args=[row.pk])
    page = admin_client.get(url).content.decode()
    assert "9.00 USD, 1.00 USD left" in page
    assert 'name="initial-budget_usd"' in page
    stale = key_form(row, top_up="5")
    for _ in range(2):  # a second admin, with the form as it was before
        assert admin_client.post(url, stale).status_code == 302
    row.refresh_from_db()
    assert row.budget_usd == 20
    assert [str(entry.get_change_message()) for entry in LogEntry.objects.order_by("pk")] == [
        "Budget topped up by 5.00 USD to 15.00 USD.",
        "Budget topped up by 5.00 USD to 20.00 USD.",
    ]
    assert "9.00 USD, 11.00 USD left" in admin_client.get(url).content.decode()


def test_only_a_budget_can_be_topped_up(admin_client):
    row, _ = make_key()
    url = reverse("admin:routing_apikey_change", args=[row.pk])
    answer = admin_client.post(url, key_form(row, budget_usd="", top_up="5"))
    assert "Allowed only where there is a budget to top up." in answer.content.decode()


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Mars/Olympus"])
def test_a_team_says_where_its_days_begin(admin_client, zone):
    form = {
        "slug": "search",
        "name": "Search",
        "time_zone": zone,
        "enabled": "on",
        "rpm": "",
        "tpm": "",
        "parallel": "",
        "budget_usd": "5",
        "budget_period": "day",
        "top_up": "",
    }
    answer = admin_client.post(reverse("admin:routing_team_add"), form)
    if zone == "Europe/Berlin":
        assert Team.objects.get().time_zone == zone
        assert "5.00 USD day" in admin_client.get(reverse("admin:routing_team_changelist")).content.decode()
    else:
        assert "is not a time zone" in answer.content.decode()


def test_the_settings_page_shows_what_is_wrong_with_the_limits(admin_client, monkeypatch):
    monkeypatch.setattr(notices, "_sources", {"limits": lambda: "Redis is away: limits are kept elsewhere."})
    page = admin_client.get(reverse("admin:routing_gatewaysettings_changelist"), follow=True)
    assert "Redis is away: limits are kept elsewhere." in page.content.decode()


@pytest.mark.django_db
def test_a_config_file_keeps_budgets_and_over_limit_routes(tmp_path):
    cheap = make_route(name="mini", over_limit_route=None)
    route = make_route(name="a-first", over_limit_route=cheap, rpm=5, budget_usd=7, budget_period="week")
    make_target(route=route, provider=make_provider(slug="p"), budget_usd="1.5", budget_period="month")
    make_key(name="app", team=make_team(slug="t", time_zone="Asia/Tokyo", budget_usd=3, budget_period="day"))
    file = tmp_path / "config.yaml"
    file.write_text(dumper.dump())
    assert loader.load_file(file).changes == ()
    ApiKey.objects.all().delete()
    Team.objects.all().delete()
    ModelRoute.objects.all().delete()
    loader.load_file(file)
    assert loader.load_file(file).changes == ()
    route = ModelRoute.objects.get(name="a-first")
    target = route.targets.get()
    team = Team.objects.get()
    assert (route.over_limit_route.name, route.rpm, route.budget_usd, route.budget_period) == (
        "mini",
        5,
        7,
        "week",
    )
    assert (target.budget_usd, target.budget_period) == (Decimal("1.5"), "month")
    assert (team.time_zone, team.budget_usd, team.budget_period) == ("Asia/Tokyo", 3, "day")


@pytest.mark.django_db
def test_an_unknown_over_limit_route_is_named(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("switchstand: {routes: {gpt: {over_limit_route: nothing}}}")
    (said,) = loader.load_file(file).reports
    assert "over_limit_route: unknown route 'nothing'" in str(said)


@pytest.mark.django_db
def test_create_key_sets_a_budget(capsys):
    call_command("create_key", "app", "--budget", "2.50", "--budget-period", "month")
    row = ApiKey.objects.get()
    assert (row.budget_usd, row.budget_period) == (Decimal("2.5"), "month")
    assert re.match(r"sk-", capsys.readouterr().out.splitlines()[-1])


def test_a_restart_forgets_no_spending(upstream, published, priced, live):
    priced()
    row, key = make_key(budget_usd="0.02")
    upstream.always("p1", Answer(body=used(1000)))
    published()
    from tests.live import Door

    door = Door("fast_lane", live.url)
    assert door.chat(key, max_tokens=1000).status_code == 200
    live.stop()
    live.start()
    assert [door.chat(key, max_tokens=1000).status_code for _ in range(2)] == [200, 429]
    until(
        lambda: RequestLog.objects.filter(key_id=row.pk, cost_nano_usd=10**7).count() == 2, "both are logged"
    )


@pytest.mark.django_db(transaction=True)
def test_spending_is_known_however_much_of_it_waits_in_the_journal(tmp_path, settings):
    """A database takes so many parameters in a statement, and an hour's journal has millions of calls."""
    settings.JOURNAL_DIR = tmp_path
    row, _ = make_key(budget_usd=1)
    calls = [closed(key_id=row.pk, cost_nano_usd=10) for _ in range(300)]
    lines = b"".join(to_line(call) for call in calls)
    (tmp_path / "worker.00000000.journal").write_bytes(lines)
    store([*calls[:100], closed(key_id=row.pk, cost_nano_usd=1)])
    limit, few = sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 100
    before = connection.connection.setlimit(limit, few) if connection.vendor == "sqlite" else 0
    try:
        assert spent(limit_owners_of(row)[0], None, None) == 3001
    finally:
        if before:
            connection.connection.setlimit(limit, before)  # other tests have this connection too


@pytest.mark.django_db(transaction=True)
def test_looking_at_budgets_takes_no_memory_for_what_waits_in_the_journal(tmp_path, settings):
    """After an hour without the database these are millions of calls, of one owner or of others."""
    settings.JOURNAL_DIR = tmp_path
    row, _ = make_key(budget_usd=1)
    waiting = b"".join(to_line(closed(key_id=row.pk + 1, cost_nano_usd=10)) for _ in range(1000))
    for number in range(10):
        (tmp_path / f"worker.{number:08d}.journal").write_bytes(waiting)
    [limit_owner] = limit_owners_of(row)
    update(datetime(2026, 6, 10, tzinfo=UTC))  # what is made once, at the first call
    spent(limit_owner, None, None)
    tracemalloc.start()
    try:
        assert spent(limit_owner, None, None) == 0
        read = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        update(datetime(2026, 6, 10, tzinfo=UTC))
        updated = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read < 6_000_000, f"{read:,} bytes: about one segment is read at a time"
    assert updated < 500_000, f"{updated:,} bytes: shown figures are those of the database"
