"""Why a request goes where it goes: the same answer from the command, the REST API and the admin."""

import json
import re
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import reverse

from tests import plain
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.live import until
from tests.upstream import Answer

EXPLAIN = reverse("admin:routing_modelroute_explain")
MASTER_KEY = "sk-master-for-tests"


@pytest.fixture
def gpt(upstream, published):
    """gpt on a, then on b; a canary c, a shadow s, and t for the tag vip."""
    route = make_route(name="gpt", aliases=["best"], strategy="ordered")
    rows = {
        "a": {},
        "b": {"priority": 2},
        "c": {"canary_percent": 0},
        "s": {"shadow_percent": 0},
        "t": {"tags": ["vip"]},
    }
    for slug, values in rows.items():
        provider = make_provider(
            slug=slug, base_url=upstream.url(slug), retries=0, health_check_enabled=False
        )
        make_target(route=route, provider=provider, upstream_model=f"own-{slug}", **values)
    _, key = make_key(name="app", rpm=100, team=make_team(slug="search", parallel=5))
    published()
    return key


def explained(*arguments):
    out = StringIO()
    call_command("explain_route", *arguments, "--json", stdout=out)
    return json.loads(out.getvalue())


def order(found):
    return [target["provider"] for target in found["targets"] if target["place"]]


def why(found, slug):
    return next(target["why"] for target in found["targets"] if target["provider"] == slug)


def test_the_command_tells_each_step_in_words(db):
    make_target(
        route=make_route(name="gpt", aliases=["best"]),
        provider=make_provider(slug="openai"),
        upstream_model="gpt-4o",
        rpm=9,
    )
    make_key(name="app", tpm=1000, budget_usd="2.5", budget_period="month")
    out = StringIO()
    call_command("explain_route", "best", "--key-name", "app", stdout=out)
    lines = out.getvalue().splitlines()
    assert lines[0] == "ok  key: app"
    assert "ok  route: gpt, of which best is an alias" in lines
    assert "ok  target: openai/gpt-4o is asked first, 0 more after it" in lines
    assert "limit of key app: 1,000 tokens per minute" in lines
    assert any(line.startswith("1.  openai/gpt-4o (target ") for line in lines)
    assert "    limit of target gpt → openai/gpt-4o: 9 requests per minute" in lines
    assert "limit of key app: 2.5 USD a month, 2.5 USD left" in lines
    assert lines[-1].startswith("(no web process has reported live state")


def test_every_target_says_why_it_is_where_it_is(gpt):
    found = explained("gpt", "--key-name", "app")
    assert (found["status"], found["error"]) == (200, "")
    assert order(found) == ["a", "b", "c"]
    assert why(found, "a") == "priority 1, weight 1"
    assert why(found, "c") == "canary: gets 0 % of the requests by chance"
    assert why(found, "s") == "shadow: gets a copy of 0 % of the requests, answers nobody"
    assert [target["provider"] for target in found["targets"]] == ["a", "b", "c", "t", "s"]
    assert why(found, "t") == "serves only requests tagged vip"
    assert order(explained("gpt", "--key-name", "app", "--tags", "vip"))[0] == "t"
    only_b = explained("gpt", "--key-name", "app", "--provider", "b")
    assert order(only_b) == ["b"]
    assert why(only_b, "a") == "x-litellm-route asks for another provider or model"


def test_it_asks_no_provider_and_counts_nothing(gpt, upstream):
    for _ in range(3):
        explained("gpt", "--key", gpt)
    assert not any(upstream.calls(slug) for slug in "abcst")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("nothing",), 404, "does not exist"),
        (("gpt", "--key", "sk-unknown"), 401, "Unknown API key"),
        (("gpt", "--key-name", "old"), 401, "revoked"),
        (("gpt", "--key-name", "narrow"), 403, "may not use the model"),
        (("gpt", "--provider", "none"), 404, "does not serve gpt"),
    ],
)
def test_a_refusal_is_the_one_that_the_caller_gets(gpt, live, arguments, status, text):
    make_key(name="old", enabled=False)
    make_key(name="narrow", allowed_routes=[make_route(name="other")])
    from routing.compiler import current_version

    live.wait_for_version(current_version())
    found = explained(*arguments)
    assert found["status"] == status
    assert text in found["error"]
    assert found["steps"][-1]["passed"] is False


def test_an_unknown_key_name_says_which_there_are(gpt):
    with pytest.raises(CommandError, match="known are: app"):
        explained("gpt", "--key-name", "nobody")


def fail(door, upstream, key, times=3):
    upstream.always("a", Answer(status=500))
    for _ in range(times):
        door.chat(key)


def test_the_command_sees_the_live_state_of_the_web_process(door, gpt, live, upstream):
    fail(door, upstream, gpt)

    def found():
        answer = json.loads(live.manage("explain_route", "gpt", "--key-name", "app", "--json").stdout)
        return answer if order(answer)[0] == "b" else None

    answer = until(found, "the command sees the open circuit", 5)
    assert why(answer, "a").startswith("circuit open for ")
    assert "3 failures in a row" in why(answer, "a")
    state = next(target["state"] for target in answer["targets"] if target["provider"] == "a")
    assert (state["standing"], state["failures"], state["last_error"]) == (
        "open",
        3,
        "a failed with status 500.",
    )
    assert "reported it" in answer["note"]


# REST


def test_rest_answers_staff_and_the_master_key(client, django_user_model, settings, db):
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p"))
    make_key(name="app")
    assert client.get("/api/explain?model=gpt").status_code == 401
    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))
    assert client.get("/api/explain?model=gpt").status_code == 403
    client.force_login(django_user_model.objects.create_superuser("boss"))
    found = client.get("/api/explain?model=gpt&key_name=app").json()
    assert (found["status"], found["key"], order(found)) == (200, "app", ["p"])
    client.logout()
    settings.MASTER_KEY = MASTER_KEY
    with_key = {"HTTP_AUTHORIZATION": f"Bearer {MASTER_KEY}"}
    assert order(client.get("/api/explain?model=gpt", **with_key).json()) == ["p"]
    assert client.get("/api/explain?model=gpt", HTTP_AUTHORIZATION="Bearer wrong").status_code == 401
    assert client.get("/api/explain", **with_key).json() == {
        "model": "is missing: the model that a caller would ask for"
    }
    assert client.get("/api/explain?model=gpt&key_name=x", **with_key).status_code == 400


def test_no_empty_master_key_opens_it(client, settings, db):
    settings.MASTER_KEY = ""
    assert client.get("/api/explain?model=gpt", HTTP_AUTHORIZATION="Bearer ").status_code == 401


class Admin:
    """A browser's session with the live gateway's admin."""

    def __init__(self, live, django_user_model, client):
        client.force_login(django_user_model.objects.create_superuser("boss"))
        self.http = plain.Client(base_url=live.url, cookies={"sessionid": client.cookies["sessionid"].value})

    def get(self, path):
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text[:500]
        return answer

    def post(self, page, path, **data):
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', self.get(page).text)[1]
        return self.http.post(
            path, data={"csrfmiddlewaretoken": token, **data}, headers={"referer": str(self.http.base_url)}
        )


@pytest.fixture
def boss(live, django_user_model, client):
    return Admin(live, django_user_model, client)


def test_rest_has_the_limits_state_of_the_web_process(door, gpt, boss):
    for _ in range(3):
        door.chat(gpt)
    found = boss.get("/api/explain?model=gpt&key_name=app").json()
    assert found["limits"] == [
        {"owner": "key app", "limit": "100 requests per minute", "left": "97", "used_up": False},
        {"owner": "team search", "limit": "5 requests at the same time", "left": "", "used_up": False},
    ]


# The admin


def route_page():
    from routing.models import ModelRoute

    return reverse("admin:routing_modelroute_change", args=[ModelRoute.objects.get(name="gpt").pk])


def test_the_routes_page_shows_live_state_and_resets_a_circuit(door, gpt, boss, upstream):
    fail(door, upstream, gpt)
    page = boss.get(route_page()).text
    assert "Live state" in page
    assert "a failed with status 500." in page
    assert "100 % of 3" in page
    calls = len(upstream.calls("a"))
    upstream.always("a", Answer())
    reset = re.search(r'action="([^"]+/reset/\d+/)"', page)[1]
    assert boss.http.get(reset).status_code == 403
    assert boss.post(route_page(), reset).status_code == 302
    assert door.chat(gpt).headers["x-proxy-provider"] == "a"
    assert len(upstream.calls("a")) == calls + 1
    assert "Circuit closed for a/own-a" in boss.get(route_page()).text


def test_the_target_list_resets_what_is_selected(door, gpt, boss, upstream):
    from routing.models import RouteTarget

    fail(door, upstream, gpt)
    upstream.always("a", Answer())
    listed = reverse("admin:routing_routetarget_changelist")
    target = RouteTarget.objects.get(provider__slug="a")
    boss.post(listed, listed, action="reset_state", _selected_action=target.pk)
    assert door.chat(gpt).headers["x-proxy-provider"] == "a"


def test_resetting_needs_the_permission(admin_client, client, django_user_model):
    target = make_target()
    url = reverse("admin:routing_modelroute_reset", args=[target.route_id, target.pk])
    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))
    assert client.post(url).status_code == 403


def test_the_why_page_explains_for_a_chosen_and_for_a_pasted_key(door, gpt, boss, upstream):
    fail(door, upstream, gpt)
    for given in ({"key_name": "app"}, {"pasted_key": gpt}):
        page = boss.post(EXPLAIN, EXPLAIN, model="best", **given).text
        assert "gpt, of which best is an alias" in page
        assert "app of the team search" in page
        assert "circuit open for" in page
        assert "b/own-b is asked first, 2 more after it" in page
        assert gpt not in page


def test_the_why_page_names_a_refusal(admin_client):
    make_route(name="gpt")
    page = admin_client.post(EXPLAIN, {"model": "gpt"}).content.decode()
    assert "503: No provider can serve gpt now (it has no enabled target)." in page
    page = admin_client.post(EXPLAIN, {"model": "gpt", "pasted_key": "sk-wrong"}).content.decode()
    assert "401: Unknown API key." in page


def test_the_why_page_is_closed_to_staff_without_the_permission(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))
    assert client.get(EXPLAIN).status_code == 403


def test_a_support_question_is_answered_from_the_request_id(door, gpt, boss, upstream, logged):
    fail(door, upstream, gpt)
    row = logged(door.chat(gpt))
    results = {entry["provider"]: entry["result"] for entry in row.attempt_trail}
    assert results["b"] == "200"
    assert results["a"].startswith("skipped: circuit open for ")
    assert results["t"] == "skipped: serves only requests tagged vip"
    assert results["c"] == "not needed"
    first = row.attempt_trail[0]
    assert first["ms"] > 0
    assert first["at_ms"] >= 0
    assert row.attempts == 1
    page = boss.get(reverse("admin:monitoring_requestlog_change", args=[row.pk])).text
    assert "skipped: circuit open for" in page
    assert "not needed" in page


def test_a_request_that_fell_over_shows_both_attempts(door, gpt, upstream, logged):
    upstream.script("a", Answer(status=500))
    row = logged(door.chat(gpt))
    assert [entry["result"] for entry in row.attempt_trail[:2]] == [
        "upstream_error: a failed with status 500.",
        "200",
    ]
    assert row.attempt_trail[1]["at_ms"] >= row.attempt_trail[0]["at_ms"] + row.attempt_trail[0]["ms"] - 1
    assert row.attempts == 2


def test_an_explanation_moves_no_session(door, upstream, published, boss):
    route = make_route(name="gpt", strategy="sticky")
    for slug in ("a", "b"):
        make_target(route=route, provider=make_provider(slug=slug, base_url=upstream.url(slug)))
    _, key = make_key(name="app")
    published()
    served = door.chat(key, user="u").headers["x-proxy-provider"]
    for _ in range(3):
        found = boss.get("/api/explain?model=gpt&key_name=app&user=u").json()
        assert order(found)[0] == served
        assert why(found, served) == "the session's target"
    assert door.chat(key, user="u").headers["x-proxy-provider"] == served


def test_limits_that_are_used_up_are_named(door, gpt, boss, published):
    from routing.models import ApiKey, RouteTarget

    RouteTarget.objects.filter(provider__slug="a").update(rpm=1)
    ApiKey.objects.filter(name="app").update(rpm=2)
    published()
    for _ in range(2):
        door.chat(gpt)
    found = boss.get("/api/explain?model=gpt&key_name=app").json()
    assert (found["status"], found["error"]) == (429, "key app: 2 requests per minute, 0 left: used up.")
    assert why(found, "a").startswith("passed over: used up is target gpt → a/own-a: 1 requests per minute")


def test_unhealthy_providers_come_after_the_healthy_ones_or_not_at_all(door, gpt, published):
    from django.utils import timezone

    from routing.models import Provider, ProviderHealth

    now = timezone.now()
    ill = [
        ProviderHealth(provider=provider, status="unhealthy", checked_at=now, changed_at=now)
        for provider in Provider.objects.filter(slug__in=("a", "b"))
    ]
    ProviderHealth.objects.bulk_create(ill)
    Provider.objects.filter(slug="b").update(when_unhealthy="refuse")
    Provider.objects.update(health_check_enabled=True)
    published()
    found = explained("gpt", "--key-name", "app")
    assert order(found) == ["c", "a"]
    assert why(found, "a") == "its provider is unhealthy: after the healthy ones"
    assert why(found, "b") == "its provider is unhealthy and then refuses"
    assert door.chat(gpt).headers["x-proxy-provider"] == "c"
