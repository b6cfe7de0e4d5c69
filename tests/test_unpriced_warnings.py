"""Whoever makes a budget meet a target of unknown price is told so at once, wherever that is done."""

import io

import pytest
from django.core.management import call_command
from django.urls import reverse

from routing import unpriced
from routing.models import ApiKey, ModelRoute, RouteTarget
from tests.factories import make_key, make_provider, make_route, make_target, make_team
from tests.test_admin_routes import form as route_form

pytestmark = pytest.mark.django_db
LIMITS = {"rpm": "", "tpm": "", "parallel": "", "budget_period": "total"}
KNOWN = {"input_price": 1, "output_price": 2}


def told(client, url, data):
    answer = client.post(url, data, follow=True)
    assert answer.status_code == 200
    assert "adminform" not in answer.context or not answer.context["adminform"].form.errors
    found = [str(message) for message in answer.context["messages"]]
    return [text for text in found if "price_unknown" in text]


def change(row):
    return reverse(f"admin:routing_{row._meta.model_name}_change", args=[row.pk])


def run(client, row, action):
    url = reverse(f"admin:routing_{row._meta.model_name}_changelist")
    return told(client, url, {"action": action, "_selected_action": [row.pk]})


@pytest.fixture
def target():
    """Of unknown price."""
    return make_target(
        route=make_route(name="gpt"), provider=make_provider(slug="mine"), upstream_model="own-model"
    )


def names_both(texts, holder):
    (text,) = texts
    assert "Route gpt: the price of its target mine/own-model is unknown" in text
    assert text.endswith(f"Budgets that count them: {holder}. {unpriced.REMEDY}")
    return True


def key_form(**values):
    return {"name": "app", "tags": "", "content_log": "", "enabled": "on", **LIMITS, **values}


def test_a_budget_on_a_new_key(admin_client, target):
    add = reverse("admin:routing_apikey_add")
    assert names_both(told(admin_client, add, key_form(budget_usd="5")), "API key app")
    assert told(admin_client, add, key_form(name="free")) == []


def test_a_route_that_a_key_with_a_budget_is_allowed(admin_client, target):
    other = make_target(route=make_route(name="priced"), **KNOWN)
    key, _ = make_key(name="app", budget_usd=5, allowed_routes=[other.route])
    values = key_form(budget_usd="5", allowed_routes=[other.route.pk])
    assert told(admin_client, change(key), values) == []
    values["allowed_routes"] = [other.route.pk, target.route.pk]
    assert names_both(told(admin_client, change(key), values), "API key app")


def test_a_budget_on_a_team_counts_for_its_keys(admin_client, target):
    team = make_team(slug="t", name="T")
    values = {"slug": "t", "name": "T", "tags": "", "time_zone": "UTC", "enabled": "on", **LIMITS}
    assert told(admin_client, change(team), values | {"budget_usd": "5"}) == [], "it has no key"
    make_key(name="app", team=team)
    assert names_both(told(admin_client, change(team), values | {"budget_usd": "5"}), "team t")


def test_a_route_saved_with_such_a_target(admin_client):
    make_key(name="app", budget_usd=5)
    provider = make_provider(slug="mine")
    values = {"provider": provider.pk, "upstream_model": "own-model"}
    add = reverse("admin:routing_modelroute_add")
    assert names_both(told(admin_client, add, route_form(values, name="gpt")), "API key app")
    priced = values | {"input_price": "1", "output_price": "2"}
    assert told(admin_client, add, route_form(priced, name="priced")) == []


def test_a_target_saved_without_its_price(admin_client, target):
    make_key(name="app", budget_usd=5)
    values = {"route": target.route.pk, "provider": target.provider.pk, "upstream_model": "own-model"}
    values |= {"priority": "1", "weight": "1", "enabled": "on", "tags": "", **LIMITS}
    assert names_both(told(admin_client, change(target), values), "API key app")
    assert told(admin_client, change(target), values | {"input_price": "1", "output_price": "0"}) == []
    assert names_both(
        told(admin_client, change(target), values | {"budget_usd": "1"}), "the target, API key app"
    )


def test_what_is_switched_on_again(admin_client, target):
    key, _ = make_key(name="app", budget_usd=5)
    for row in (key, target, target.route, target.provider):
        assert run(admin_client, row, "revoke" if row is key else "disable") == []
        assert list(unpriced.clashes()) == []
        assert names_both(run(admin_client, row, "enable"), "API key app")


def test_long_lists_are_cut(target):
    for number in range(5):
        make_key(name=f"app-{number}", budget_usd=5)
    for number in range(7):
        make_target(route=target.route, provider=target.provider, upstream_model=f"m-{number}", priority=2)
    texts = unpriced.told()
    assert len(texts) == unpriced.MOST_TOLD + 1
    assert "API key app-0, API key app-1, API key app-2 and 2 more." in texts[0]
    assert texts[-1] == "So are those to 3 more targets."


def test_shadows_disabled_rows_and_keys_without_a_budget_are_none_of_it(target):
    make_key(name="app", budget_usd=5, enabled=False)
    make_key(name="free")
    assert list(unpriced.clashes()) == []
    ApiKey.objects.update(enabled=True)
    RouteTarget.objects.update(shadow_percent=10)
    assert list(unpriced.clashes()) == []
    RouteTarget.objects.update(shadow_percent=None)
    assert len(list(unpriced.clashes())) == 1
    ModelRoute.objects.update(enabled=False)
    assert list(unpriced.clashes()) == []


def test_the_commands_say_it_too(target, capsys):
    out, err = io.StringIO(), io.StringIO()
    call_command("create_key", "app", "--budget", "5", stdout=out, stderr=err)
    assert "mine/own-model" in err.getvalue()
    assert out.getvalue().splitlines()[-1].startswith("sk-"), "the key is still alone on the last line"
    call_command("check", databases=["default"])
    assert "routing.W002" in capsys.readouterr().err


def test_more_keys_and_targets_cost_no_more_queries(target, django_assert_num_queries):
    for number in range(3):
        make_key(name=f"app-{number}", budget_usd=5, allowed_routes=[target.route])
    with django_assert_num_queries(3):
        assert len(unpriced.told()) == 1
