"""Teams and API keys in the admin: a key's plaintext is seen once and kept nowhere."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session
from django.db import connection
from django.urls import reverse
from django.utils import timezone

from routing import gateway_keys
from routing.models import ApiKey, RoutingVersion, Team
from tests.factories import make_key, make_route, make_team

LIST = reverse("admin:routing_apikey_changelist")
ADD = reverse("admin:routing_apikey_add")
TEAMS = reverse("admin:routing_team_changelist")


def change(key):
    return reverse("admin:routing_apikey_change", args=[key.pk])


def form(**values):
    return {
        "name": "search-prod",
        "team": "",
        "expires_at_0": "",
        "expires_at_1": "",
        "enabled": "on",
        "existing_key": "",
        "rpm": "",
        "tpm": "",
        "parallel": "",
        "budget_usd": "",
        "budget_period": "total",
        **values,
    }


def plaintexts(response):
    return re.findall(r"<code[^>]*>(sk-[\w-]+)</code>", response.content.decode())


def everything_stored():
    """Each row of each table, as text."""
    with connection.cursor() as cursor:
        rows = []
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += cursor.fetchall()
    sessions = [session.get_decoded() for session in Session.objects.all()]
    return repr(rows) + repr(sessions)


def cookies(client):
    return repr([cookie.value for cookie in client.cookies.values()])


def regenerate(client, *keys, state=None):
    """The two pages of the action; `state` posts an older first page's again."""
    chosen = {"action": "regenerate_selected", "_selected_action": [key.pk for key in keys]}
    if state is None:
        state = re.findall(r'name="state" value="(\w+)"', client.post(LIST, chosen).content.decode())
    return state, client.post(LIST, {**chosen, "confirmed": "yes", "state": state}, follow=True)


def test_adding_a_key_shows_its_plaintext_and_stores_only_the_hash(admin_client):
    answer = admin_client.post(ADD, form())
    (plaintext,) = plaintexts(answer)
    key = ApiKey.objects.get()
    assert key.key_hash == gateway_keys.digest(plaintext).hex()
    assert key.prefix == plaintext[:12]
    assert plaintext not in everything_stored()
    assert plaintext not in cookies(admin_client)
    assert "no-store" in answer["Cache-Control"]


def test_no_later_page_shows_the_plaintext_again(admin_client):
    (plaintext,) = plaintexts(admin_client.post(ADD, form()))
    key = ApiKey.objects.get()
    history = reverse("admin:routing_apikey_history", args=[key.pk])
    for url in (LIST, change(key), history, reverse("admin:index"), ADD):
        assert plaintext not in admin_client.get(url).content.decode()


def test_posting_the_same_form_again_makes_no_second_key(admin_client):
    admin_client.post(ADD, form())
    again = admin_client.post(ADD, form())
    assert plaintexts(again) == []
    assert ApiKey.objects.count() == 1


@pytest.mark.parametrize("button", ["_continue", "_addanother", "_popup"])
def test_every_way_to_save_shows_the_plaintext(admin_client, button):
    assert len(plaintexts(admin_client.post(ADD, form(**{button: "1"})))) == 1


def test_a_key_is_saved_with_team_routes_limits_budget_and_expiry(admin_client):
    team, route = make_team(), make_route()
    values = form(
        team=team.pk,
        allowed_routes=[route.pk],
        rpm="60",
        budget_usd="12.5",
        expires_at_0="2030-01-02",
        expires_at_1="03:04:05",
    )
    assert len(plaintexts(admin_client.post(ADD, values))) == 1
    key = ApiKey.objects.get()
    assert (key.team, list(key.allowed_routes.all()), key.rpm, key.budget_usd) == (team, [route], 60, 12.5)
    assert key.expires_at.isoformat() == "2030-01-02T03:04:05+00:00"


def test_an_existing_key_is_taken_over_and_never_shown(admin_client):
    answer = admin_client.post(ADD, form(existing_key="the-key-that-apps-hold"), follow=True)
    key = ApiKey.objects.get()
    assert key.key_hash == gateway_keys.digest("the-key-that-apps-hold").hex()
    assert "the-key-that-apps-hold" not in answer.content.decode()
    assert "the-key-that-apps-hold" not in everything_stored() + cookies(admin_client)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nineteen-characters", "Allowed are 20 or more printable ASCII characters without blanks."),
        ("with a blank in the middle", "Allowed are 20 or more printable ASCII characters without blanks."),
        ("one-that-is-used-already", "This key is already stored: each may be used once."),
        ("the-master-key-of-this", "This is the MASTER_KEY: allowed are keys of their own."),
    ],
)
def test_an_existing_key_that_cannot_be_used_is_refused_and_not_echoed(
    admin_client, settings, value, message
):
    settings.MASTER_KEY = "the-master-key-of-this"
    make_key(plaintext="one-that-is-used-already")
    answer = admin_client.post(ADD, form(existing_key=value, rpm="61"))
    assert answer.context["adminform"].form.errors == {"existing_key": [message]}
    assert value not in answer.content.decode()
    assert 'value="61"' in answer.content.decode()


def test_an_edit_keeps_the_key(admin_client):
    key, plaintext = make_key(name="before")
    answer = admin_client.post(
        change(key), form(name="after", existing_key="ignored-value", key_hash="0" * 64)
    )
    assert answer.status_code == 302
    key.refresh_from_db()
    assert (key.name, key.key_hash) == ("after", gateway_keys.digest(plaintext).hex())


def test_regenerating_shows_a_new_plaintext_and_forgets_the_old_one(admin_client):
    key, old = make_key(last_used_at=timezone.now())
    before = RoutingVersion.objects.get().number
    _, answer = regenerate(admin_client, key)
    (new,) = plaintexts(answer)
    key.refresh_from_db()
    assert new != old
    assert key.key_hash == gateway_keys.digest(new).hex()
    assert (key.prefix, key.last_used_at) == (new[:12], None)
    assert RoutingVersion.objects.get().number > before
    assert new not in everything_stored() + cookies(admin_client)
    assert LogEntry.objects.get().get_change_message() == "Regenerated."


def test_several_keys_are_regenerated_at_once(admin_client):
    keys = [make_key()[0] for _ in range(3)]
    _, answer = regenerate(admin_client, *keys)
    shown = {gateway_keys.digest(plaintext).hex() for plaintext in plaintexts(answer)}
    assert shown == set(ApiKey.objects.values_list("key_hash", flat=True))


def test_reloading_the_page_of_a_new_plaintext_regenerates_nothing(admin_client):
    key, _ = make_key()
    state, answer = regenerate(admin_client, key)
    (new,) = plaintexts(answer)
    _, again = regenerate(admin_client, key, state=state)
    assert plaintexts(again) == []
    assert "Already regenerated: nothing was changed." in again.content.decode()
    key.refresh_from_db()
    assert key.key_hash == gateway_keys.digest(new).hex()


def test_the_change_page_leads_to_regenerating_and_a_get_changes_nothing(admin_client):
    key, plaintext = make_key()
    url = reverse("admin:routing_apikey_regenerate", args=[key.pk])
    assert url in admin_client.get(change(key)).content.decode()
    assert f'value="{key.pk}"' in admin_client.get(url).content.decode()
    key.refresh_from_db()
    assert key.key_hash == gateway_keys.digest(plaintext).hex()
    missing = reverse("admin:routing_apikey_regenerate", args=[key.pk + 1])
    assert admin_client.get(missing).status_code == 302


def test_regenerating_needs_the_change_permission(client, django_user_model):
    key, _ = make_key()
    client.force_login(django_user_model.objects.create_user("guest", is_staff=True))
    assert client.get(reverse("admin:routing_apikey_regenerate", args=[key.pk])).status_code == 403


def test_keys_are_revoked_and_enabled_in_bulk(admin_client):
    keys = [make_key()[0].pk for _ in range(2)]
    before = RoutingVersion.objects.get().number
    answer = admin_client.post(LIST, {"action": "revoke", "_selected_action": keys}, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["2 API keys revoked."]
    assert RoutingVersion.objects.get().number > before
    assert not ApiKey.objects.filter(enabled=True).exists()
    admin_client.post(LIST, {"action": "enable", "_selected_action": keys})
    assert ApiKey.objects.filter(enabled=True).count() == 2


def test_the_list_shows_prefix_routes_limits_and_expiry(admin_client):
    route = make_route(name="gpt-4o")
    gone = timezone.now() - timedelta(days=1)
    _, plaintext = make_key(allowed_routes=[route], rpm=60, tpm=40000, expires_at=gone)
    page = admin_client.get(LIST).content.decode()
    for shown in (f"{plaintext[:12]}…", "gpt-4o", "60 rpm", "40,000 tpm", "expired"):
        assert shown in page
    assert plaintext not in page


def test_the_list_is_searched_by_name_prefix_and_team(admin_client):
    key, plaintext = make_key(name="needle", team=make_team(slug="hay"))
    make_key()
    for term in ("needle", plaintext[:10], "hay"):
        assert list(admin_client.get(LIST, {"q": term}).context["cl"].result_list) == [key]


def test_a_team_links_to_its_keys_and_is_switched_in_bulk(admin_client):
    team = make_team(rpm=10)
    make_key(team=team)
    make_key(team=team)
    page = admin_client.get(TEAMS).content.decode()
    assert re.search(rf'href="{re.escape(LIST)}\?team__id__exact={team.pk}"[^>]*>2</a>', page)
    answer = admin_client.post(TEAMS, {"action": "disable", "_selected_action": [team.pk]}, follow=True)
    assert [str(message) for message in answer.context["messages"]] == ["1 team disabled."]
    assert not Team.objects.get().enabled


def test_the_key_list_takes_the_same_queries_for_any_number_of_rows(admin_client, django_assert_num_queries):
    team, routes = make_team(), [make_route(), make_route()]
    for _ in range(5):
        make_key(team=team, allowed_routes=routes)
    admin_client.get(LIST)
    with django_assert_num_queries(8):  # session, user, two filters, two counts, rows, their routes
        admin_client.get(LIST)


def test_the_team_list_takes_the_same_queries_for_any_number_of_rows(admin_client, django_assert_num_queries):
    for _ in range(5):
        make_key(team=make_team())
    admin_client.get(TEAMS)
    with django_assert_num_queries(5):  # session, user, two counts, rows
        admin_client.get(TEAMS)
