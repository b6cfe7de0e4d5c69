"""A configuration file in the admin: uploaded, planned, applied; nothing of it leaks."""

import re
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.contrib.sessions.models import Session
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from routing.admin import config_file
from routing.models import GatewaySettings, InactiveGuard, ModelRoute, Provider, RouteTarget, Team
from tests.factories import make_route

pytestmark = pytest.mark.django_db
URL = reverse("admin:routing_gatewaysettings_load")
SECRET = "sk-of-the-provider-0123456789"
FILE = f"""
model_list:
  - model_name: gpt
    litellm_params: {{model: openai/gpt-4o, api_base: "http://127.0.0.1:9/v1", api_key: {SECRET}, rpm: 5}}
  - model_name: old
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:9/v1", api_key: {SECRET}, frobnicate: 1}}
guardrails: [{{guardrail_name: pii}}]
"""


def upload(client, text=FILE, name="litellm_config.yaml", **more):
    content = text if isinstance(text, bytes) else text.encode()
    return client.post(URL, {"file": SimpleUploadedFile(name, content), "name": "", **more})


def planned(answer):
    return unescape(re.search(r'name="plan" value="([^"]+)"', answer.content.decode())[1])


def apply(client, plan):
    return client.post(URL, {"plan": plan})


def text_of(answer):
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.content.decode())))


def test_it_is_planned_without_writing_and_then_applied(admin_client):
    answer = upload(admin_client)
    shown = text_of(answer)
    assert answer.status_code == 200
    assert "created route gpt" in re.sub(" +", " ", shown)
    assert "dry run, nothing was written" in shown
    assert "frobnicate" in shown, "what does not take effect is shown"
    assert "guardrails" in shown
    assert not ModelRoute.objects.exists()
    assert not Provider.objects.exists()
    done = apply(admin_client, planned(answer))
    assert "dry run" not in text_of(done)
    assert {*ModelRoute.objects.values_list("name", flat=True)} == {"gpt", "old"}
    assert Provider.objects.get().api_key == SECRET
    assert RouteTarget.objects.get(route__name="gpt").rpm == 5
    again = upload(admin_client)
    assert "nothing to change" in text_of(again)


def test_the_history_says_what_was_loaded(admin_client, admin_user):
    apply(admin_client, planned(upload(admin_client)))
    (entry,) = LogEntry.objects.all()
    assert (entry.user, entry.get_edited_object()) == (admin_user, GatewaySettings.objects.get())
    assert re.match(r"Loaded litellm_config.yaml \(SHA-256 [0-9a-f]{16}\): created ", entry.change_message)
    assert "created route gpt" in entry.change_message


def test_its_credentials_are_on_no_page_and_in_no_row_log_session_or_message(admin_client, caplog):
    plan = upload(admin_client)
    done = apply(admin_client, planned(plan))
    broken = upload(admin_client, f"model_list: [{SECRET}: {{")
    for answer in (plan, done, broken):
        assert SECRET not in answer.content.decode()
        assert SECRET not in str(answer.headers) + str(answer.cookies)
        assert [str(one) for one in answer.context["messages"] if SECRET in str(one)] == []
    assert SECRET not in caplog.text
    assert SECRET not in str(list(LogEntry.objects.values()))
    assert [row for row in Session.objects.all() if SECRET in str(row.get_decoded())] == []
    assert SECRET not in planned(plan)


def test_what_was_edited_meanwhile_is_planned_anew(admin_client):
    plan = planned(upload(admin_client))
    make_route(name="gpt")
    answer = apply(admin_client, plan)
    assert [str(one) for one in answer.context["messages"]] == [config_file.EDITED]
    assert not Provider.objects.exists(), "nothing was written"
    assert "created route gpt" not in re.sub(" +", " ", text_of(answer))
    apply(admin_client, planned(answer))
    assert Provider.objects.exists()


def test_a_plan_holds_for_a_quarter_of_an_hour_and_for_who_made_it(
    admin_client, client, django_user_model, monkeypatch
):
    plan = planned(upload(admin_client))
    client.force_login(django_user_model.objects.create_superuser("other"))
    for other, plans in ((client, [plan]), (admin_client, ["nonsense", plan[:-4], ""])):
        for wrong in plans:
            assert apply(other, wrong).status_code == 302
    monkeypatch.setattr(config_file, "APPLY_SECONDS", -1)
    assert apply(admin_client, plan).status_code == 302
    assert not Provider.objects.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_list:\n  - {model_name: [", "line 2, column 19"),
        ("a: b: c", "line 1, column 5"),
        (b"\xff\xfe\xff", "UTF-8"),
        ("model_list: []" + " " * config_file.MOST_BYTES, "manage.py load_config"),
    ],
)
def test_what_is_no_such_file_is_one_sentence(admin_client, text, said):
    answer = upload(admin_client, text)
    assert answer.status_code == 200
    (errors,) = answer.context["form"].errors.values()
    assert len(errors) == 1
    assert said in errors[0]
    assert 'name="plan"' not in answer.content.decode()


def test_a_file_that_holds_nothing_is_told_and_offers_nothing_to_apply(admin_client):
    answer = upload(admin_client, "- 1\n- 2\n")
    assert "nothing was loaded; 1 report" in text_of(answer)
    assert ">Apply<" not in re.sub(r"\s", "", answer.content.decode())


def test_what_the_file_asks_to_be_guarded_by_stands_on_the_first_page(admin_client):
    """Also where it is all that is new in a file that was loaded before."""
    text = FILE[: FILE.index("guardrails")]
    apply(admin_client, planned(upload(admin_client, text)))
    assert not InactiveGuard.objects.exists()
    again = upload(admin_client)
    assert not InactiveGuard.objects.exists(), "a plan writes nothing"
    assert ">Apply<" in re.sub(r"\s", "", again.content.decode())
    apply(admin_client, planned(again))
    assert "pii" in text_of(admin_client.get(reverse("admin:index")))


def test_a_file_that_is_missing_is_asked_for(admin_client):
    assert list(admin_client.post(URL, {}).context["form"].errors) == ["file"]


def test_nothing_of_the_environment_can_be_sent_anywhere_with_a_file(admin_client, monkeypatch):
    monkeypatch.setenv("SOMEBODYS_PASSWORD", "of-the-database")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-operator-0123456789")
    text = """
model_list:
  - {model_name: a, litellm_params: {model: openai/m, api_base: "https://x.example/${SOMEBODYS_PASSWORD}"}}
  - model_name: b
    litellm_params: {model: openai/m, api_base: "https://x.example", api_key: os.environ/OPENAI_API_KEY}
  - {model_name: c, litellm_params: {model: openai/gpt-4o}}
"""
    answer = upload(admin_client, text)
    assert "SOMEBODYS_PASSWORD is not read for a file that is uploaded" in text_of(answer)
    apply(admin_client, planned(answer))
    stored = str(list(Provider.objects.values())) + str([row.api_key for row in Provider.objects.all()])
    assert "of-the-database" not in stored
    assert "sk-of-the-operator" not in stored


def may(client, django_user_model, *verbs):
    user = django_user_model.objects.create_user("clerk", is_staff=True)
    names = [f"{verb}_{name}" for verb in verbs for name in config_file._CHANGED]
    found = Permission.objects.filter(content_type__app_label="routing")
    user.user_permissions.set(found.filter(codename__in=[*names, "change_gatewaysettings"]))
    client.force_login(user)
    return user


def test_it_needs_the_right_to_change_all_that_a_file_may(client, django_user_model):
    user = may(client, django_user_model, "add", "change")
    assert client.get(URL).status_code == 200
    assert upload(client).status_code == 200
    assert upload(client, prune="on").status_code == 403, "that deletes"
    user.user_permissions.remove(Permission.objects.get(codename="change_apikey"))
    assert client.get(URL).status_code == 403
    assert upload(client).status_code == 403
    client.logout()
    assert client.get(URL).status_code == 302


def test_routes_that_the_file_does_not_list_go_where_that_is_asked_for(admin_client):
    make_route(name="unlisted")
    Team.objects.create(slug="t", name="T")
    apply(admin_client, planned(upload(admin_client)))
    assert ModelRoute.objects.filter(name="unlisted").exists()
    apply(admin_client, planned(upload(admin_client, prune="on")))
    assert not ModelRoute.objects.filter(name="unlisted").exists()
    assert Team.objects.exists()


def test_names_of_the_file_are_shown_as_they_are(admin_client):
    text = FILE.replace("model_name: gpt", 'model_name: "<script>alert(1)</script>"')
    assert "<script>alert(1)" not in upload(admin_client, text).content.decode()
