"""A refused key says since when it is refused, to who sent it and nowhere else."""

import re
from datetime import UTC, datetime

import pytest
from django.urls import reverse
from django.utils import timezone

from monitoring.models import RequestLog
from proxy.access.identify import identify
from proxy.errors import InvalidApiKey
from routing import gateway_keys
from routing.compiler import compile_table
from routing.models import ApiKey, IssuedKey, Team
from tests.factories import make_key, make_provider, make_route, make_target, make_team

ON = r"on \d{4}-\d\d-\d\d at \d\d:\d\d UTC\."


@pytest.fixture
def held(upstream, published):
    """(the row, a key that an app holds)"""
    make_target(route=make_route(name="gpt"), provider=make_provider(base_url=upstream.url("u")))
    return make_key(name="app", team=make_team(slug="t"))


def revoked_in_the_admin(row, admin):
    changelist = reverse("admin:routing_apikey_changelist")
    admin.post(changelist, {"action": "revoke", "_selected_action": [row.pk]})


def saved_as_revoked(row, admin):
    key = ApiKey.objects.get(pk=row.pk)
    key.enabled = False
    key.save()


def saved_by_field(row, admin):
    key = ApiKey.objects.get(pk=row.pk)
    key.enabled = False
    key.save(update_fields=["enabled"])


def revoked_in_bulk(row, admin):
    key = ApiKey.objects.get(pk=row.pk)
    key.enabled = False
    ApiKey.objects.bulk_update([key], ["enabled"])


def team_disabled(row, admin):
    Team.objects.filter(pk=row.team_id).update(enabled=False)


def deleted(row, admin):
    row.delete()


def deleted_by_query(row, admin):
    ApiKey.objects.filter(pk=row.pk).delete()


def given_another_value(row, admin):
    key = ApiKey.objects.get(pk=row.pk)
    key.set_plaintext("another-value-of-the-key")
    key.save()


def changed_by_query(row, admin):
    ApiKey.objects.filter(pk=row.pk).update(key_hash=gateway_keys.digest("another").hex())


def changed_in_bulk(row, admin):
    key = ApiKey.objects.get(pk=row.pk)
    key.set_plaintext("another-value-of-the-key")
    ApiKey.objects.bulk_update([key], ["key_hash", "prefix"])


ENDS = {
    revoked_in_the_admin: "This API key was revoked",
    saved_as_revoked: "This API key was revoked",
    saved_by_field: "This API key was revoked",
    revoked_in_bulk: "This API key was revoked",
    team_disabled: "This API key is revoked: its team was disabled",
    deleted: "This API key was replaced or deleted",
    deleted_by_query: "This API key was replaced or deleted",
    given_another_value: "This API key was replaced or deleted",
    changed_by_query: "This API key was replaced or deleted",
    changed_in_bulk: "This API key was replaced or deleted",
}


@pytest.mark.parametrize("end", [revoked_in_bulk, changed_by_query])
def test_no_row_and_no_log_says_it(door, held, published, logged, caplog, end):
    row, plaintext = held
    end(row, None)
    published()
    answer = door.chat(plaintext, "gpt")
    assert re.match(f"{ENDS[end]} {ON}", answer.json()["error"]["message"])
    _, other = make_key(name="other")
    published()
    logged(door.chat(other, "gpt"))  # shipped behind that of the refusal, where it left one
    assert not re.search(ON, str(list(RequestLog.objects.values())) + caplog.text)


@pytest.mark.django_db
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_key_that_is_refused_says_since_when(admin_client, end):
    row, plaintext = make_key(name="app", team=make_team(slug="t"))
    headers = {b"authorization": f"Bearer {plaintext}".encode()}
    assert identify(headers, compile_table())[0].name == "app"
    before = timezone.now()
    end(row, admin_client)
    with pytest.raises(InvalidApiKey) as refused:
        identify(headers, compile_table())
    message = str(refused.value)
    assert re.match(f"{ENDS[end]} {ON}", message), message
    told = datetime.strptime(re.search(r"on (.*) UTC", message)[1], "%Y-%m-%d at %H:%M")
    assert abs((told.replace(tzinfo=UTC) - before).total_seconds()) < 90


@pytest.mark.django_db
def test_what_was_revoked_before_anybody_noted_it_says_no_moment(door, held, published):
    row, plaintext = held
    ApiKey.objects.filter(pk=row.pk).update(enabled=False)
    ApiKey.objects.filter(pk=row.pk).update(revoked_at=None)  # as the release before left it
    renamed = ApiKey.objects.get(pk=row.pk)
    renamed.name = "renamed"
    renamed.save()
    ApiKey.objects.filter(pk=row.pk).update(enabled=False)  # once more: it was off
    published()
    assert door.chat(plaintext, "gpt").json()["error"]["message"] == "This API key is revoked."
    renamed.delete()
    IssuedKey.objects.update(retired_at=None)
    published()
    message = door.chat(plaintext, "gpt").json()["error"]["message"]
    assert message.startswith("This API key was replaced or deleted. It begins with")


@pytest.mark.django_db
def test_the_moment_is_that_of_the_last_time_it_was_switched_off():
    row, _ = make_key(name="app")
    for again in range(2):
        for enabled in (False, True):
            key = ApiKey.objects.get(pk=row.pk)
            key.enabled = enabled
            key.save()
            assert (key.revoked_at is None) == enabled, again
        key.enabled = False
        key.save()
        assert key.revoked_at is not None, "also of a row in hand"
        first = key.revoked_at
        key.save()
        assert key.revoked_at == first, "a later edit of a revoked key moves nothing"
        ApiKey.objects.filter(pk=row.pk).update(enabled=True)
        key.refresh_from_db()
        assert key.revoked_at is None


@pytest.mark.django_db
def test_a_gateway_key_in_the_callers_own_header_says_since_when_it_is_none(door, held, published):
    row, plaintext = held
    row.delete()
    published()
    refused = door.chat(None, "gpt", headers={"x-litellm-api-key": plaintext})
    assert refused.status_code == 401
    assert re.search(f"was replaced or deleted {ON}", refused.json()["error"]["message"])


@pytest.mark.django_db
def test_a_moment_that_cannot_be_read_opens_no_way_for_retired_keys():
    from django.db import connection

    row, plaintext = make_key(name="app")
    row.delete()
    if connection.vendor == "sqlite":  # only it stores nonsense
        with connection.cursor() as cursor:
            cursor.execute("UPDATE routing_issuedkey SET retired_at = '2026-77-99 00:00:00'")
    assert gateway_keys.digest(plaintext) in compile_table().retired_keys
