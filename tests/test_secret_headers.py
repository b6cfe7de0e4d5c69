"""Credentials in a provider's extra headers: encrypted, masked, dumped and redacted like the API key."""

import importlib
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.fernet import Fernet
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import connection

from monitoring.content.storing import _redactor
from monitoring.models import RequestLog
from routing import secret_headers
from routing.compiler import compile_table
from routing.config import loader
from routing.config.dumper import dump
from routing.models import Provider
from routing.models.fields import validate_headers
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, until
from tests.test_admin_providers import ADD, change, errors, form
from tests.upstream import Answer, events

SECRET = "hdr-0123456789-Zq8middleZq8-tail"
MIDDLE = "Zq8middleZq8"
HEADERS = {"x-team": "search", "x-api-key": SECRET}


def stored():
    """All that the database has of providers, as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT extra_headers, encrypted_headers FROM routing_provider")
        return str(cursor.fetchall())


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("x-api-key", True),
        ("Ocp-Apim-Subscription-Key", True),
        ("X-Auth-Token", True),
        ("x-goog-api-key", True),
        ("Cookie", True),
        ("x-password", True),
        ("cf-aig-authorization", True),
        ("x-amz-signature", True),
        ("User-Agent", False),
        ("anthropic-version", False),
        ("OpenAI-Organization", False),
        ("x-author", False),
    ],
)
def test_names_say_whose_values_are_credentials(name, secret):
    assert secret_headers.is_secret(name) is secret


@pytest.mark.django_db
def test_a_header_that_holds_a_credential_is_encrypted_however_it_is_stored():
    made = make_provider(extra_headers=HEADERS)
    assert MIDDLE not in stored()
    found = Provider.objects.get()
    assert found.extra_headers == {"x-team": "search"}
    assert found.headers == HEADERS
    made.extra_headers = {"X-API-Key": f"{SECRET}-2"}
    made.save(update_fields=["extra_headers"])
    assert MIDDLE not in stored()
    assert Provider.objects.get().headers == {"X-API-Key": f"{SECRET}-2"}


@pytest.mark.django_db
def test_what_a_bulk_write_leaves_in_clear_is_sent_and_redacted_all_the_same():
    make_target(provider=make_provider(slug="p"), route=make_route())
    Provider.objects.update(extra_headers=HEADERS | {"te": "trailers"})
    entry = compile_table().providers["p"]
    assert dict(entry.headers) == HEADERS
    assert SECRET in entry.secrets
    assert MIDDLE not in repr(entry)


@pytest.mark.django_db
def test_the_migration_encrypts_what_is_stored_and_back():
    make_provider(slug="p")
    make_provider(slug="q", extra_headers={"x-team": "a"})
    Provider.objects.filter(slug="p").update(extra_headers=HEADERS)
    module = importlib.import_module("routing.migrations.0016_secret_headers")
    for _ in range(2):  # twice: a second run finds nothing to do
        module.encrypt(apps, SimpleNamespace(connection=connection))
        assert MIDDLE not in stored()
        assert Provider.objects.get(slug="p").headers == HEADERS
    assert Provider.objects.get(slug="q").encrypted_headers == ""
    module.decrypt(apps, SimpleNamespace(connection=connection))
    assert Provider.objects.get(slug="p").extra_headers == HEADERS


@pytest.mark.django_db
def test_rotating_the_encryption_key_takes_them_along(settings):
    make_provider(extra_headers=HEADERS, slug="p")
    newest = Fernet.generate_key().decode()
    settings.ENCRYPTION_KEYS = [newest, *settings.ENCRYPTION_KEYS]
    call_command("rotate_encryption_key", stdout=io.StringIO())
    settings.ENCRYPTION_KEYS = [newest]
    assert Provider.objects.get().headers == HEADERS


@pytest.mark.django_db
def test_a_dump_has_them_encrypted_and_loads_them_again(tmp_path):
    make_provider(extra_headers=HEADERS, slug="p", api_key=f"sk-{SECRET}")
    first = dump()
    assert MIDDLE not in first
    Provider.objects.all().delete()
    file = tmp_path / "config.yaml"
    file.write_text(first)
    loader.load_file(file)
    assert Provider.objects.get().headers == HEADERS
    assert dump() == first
    assert "unchanged" in "\n".join(loader.load_file(file).lines())
    file.write_text(first.replace("encrypted:", "encrypted:x"))
    (said,) = loader.load_file(file).reports
    assert said.place.startswith("switchstand.providers.p.api_key, switchstand.providers.p.encrypted_headers")
    assert "can't be decrypted" in said.reason
    assert dump() == first, "what is stored stays"


@pytest.mark.django_db
def test_a_file_that_moves_a_provider_takes_its_secret_headers_away(tmp_path):
    make_provider(slug="p", extra_headers=HEADERS, base_url="https://one.example/v1")
    file = tmp_path / "config.yaml"
    file.write_text("switchstand: {providers: {p: {base_url: 'https://two.example/v1'}}}")
    lines = "\n".join(loader.load_file(file).lines())
    assert "its stored secret headers were removed" in lines
    assert Provider.objects.get().headers == {"x-team": "search"}
    file.write_text(f"switchstand: {{providers: {{p: {{extra_headers: {{x-token: {SECRET}}}}}}}}}")
    loader.load_file(file)
    assert Provider.objects.get().headers == {"x-token": SECRET}
    assert MIDDLE not in stored()


@pytest.mark.django_db
def test_the_admin_shows_them_masked_and_keeps_them_without_retyping(admin_client):
    provider = make_provider(slug="p", extra_headers=HEADERS, base_url="https://one.example/v1")
    page = admin_client.get(change(provider))
    assert MIDDLE not in page.content.decode()
    shown = page.context["adminform"].form.initial["extra_headers"]
    assert shown == {"x-team": "search", "x-api-key": "…tail"}
    edited = json.dumps(shown | {"x-team": "found"})
    values = {"slug": "p", "base_url": "https://one.example/v2", "when_unhealthy": "try"}
    assert admin_client.post(change(provider), form(extra_headers=edited, **values)).status_code == 302
    assert Provider.objects.get().headers == HEADERS | {"x-team": "found"}
    assert admin_client.post(change(provider), form(extra_headers="{}", **values)).status_code == 302
    assert Provider.objects.get().headers == {}


@pytest.mark.django_db
def test_a_mask_that_stands_for_no_stored_value_is_refused(admin_client):
    provider = make_provider(slug="p", extra_headers=HEADERS)
    for text in ('{"x-other-key": "…tail"}', '{"x-api-key": "…else"}'):
        found = errors(admin_client.post(change(provider), form(slug="p", extra_headers=text)))
        assert "type it anew" in found["extra_headers"][0]
    found = errors(admin_client.post(ADD, form(extra_headers='{"x-api-key": "…tail"}')))
    assert "type it anew" in found["extra_headers"][0]


@pytest.mark.django_db
def test_headers_stored_under_a_lost_key_are_kept_until_they_are_typed_anew(admin_client, settings):
    provider = make_provider(slug="p", extra_headers=HEADERS, base_url="https://one.example/v1")
    token = Provider.objects.get().encrypted_headers
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    values = {"slug": "p", "base_url": "https://one.example/v1", "when_unhealthy": "try"}
    text = json.dumps({"x-team": "search", "x-api-key": "new-value-of-it"})
    assert admin_client.get(change(provider)).status_code == 200
    assert Provider.objects.get().encrypted_headers == token
    assert admin_client.post(change(provider), form(extra_headers=text, **values)).status_code == 302
    assert Provider.objects.get().headers == {"x-team": "search", "x-api-key": "new-value-of-it"}


# Another address needs the credentials anew.

HERE = "https://api.one.example/v1"


def move(admin_client, provider, base_url, **values):
    return admin_client.post(
        change(provider), form(slug="p", base_url=base_url, when_unhealthy="try", **values)
    )


@pytest.mark.django_db
@pytest.mark.parametrize(
    "there",
    ["http://api.one.example/v1", "https://evil.example/v1", "https://api.one.example:8443/v1"],
)
def test_another_scheme_host_or_port_needs_the_api_key_anew(admin_client, there):
    provider = make_provider(slug="p", base_url=HERE, api_key="sk-stored-0123456789")
    found = errors(move(admin_client, provider, there))
    assert "type the API key anew" in found["new_api_key"][0]
    assert Provider.objects.get().base_url == HERE
    assert move(admin_client, provider, there, new_api_key="sk-typed-anew").status_code == 302
    assert Provider.objects.get().api_key == "sk-typed-anew"


@pytest.mark.django_db
def test_clearing_the_key_or_staying_on_the_host_lets_the_address_change(admin_client):
    provider = make_provider(slug="p", base_url=HERE, api_key="sk-stored-0123456789")
    assert move(admin_client, provider, "https://API.one.example:443/v2").status_code == 302
    assert Provider.objects.get().api_key == "sk-stored-0123456789"
    assert move(admin_client, provider, "https://evil.example/v1", clear_api_key="on").status_code == 302
    assert Provider.objects.get().api_key == ""


@pytest.mark.django_db
def test_another_host_needs_secret_headers_anew(admin_client):
    provider = make_provider(slug="p", base_url=HERE, extra_headers=HEADERS)
    masked = json.dumps({"x-api-key": "…tail"})
    found = errors(move(admin_client, provider, "https://evil.example/v1", extra_headers=masked))
    assert "type the value of x-api-key anew" in found["extra_headers"][0]
    typed = json.dumps({"x-api-key": SECRET})
    assert move(admin_client, provider, "https://evil.example/v1", extra_headers=typed).status_code == 302


# Names


REFUSED = sorted(secret_headers.REFUSED | {"Connection", "TE", "Host", "Authorization"})


@pytest.mark.parametrize("name", [*REFUSED, "x-a\n"])
def test_headers_of_the_connection_and_names_with_line_ends_are_refused(name):
    with pytest.raises(ValidationError):
        validate_headers({name: "x"})


def test_a_header_twice_in_two_spellings_is_refused():
    with pytest.raises(ValidationError, match="there twice"):
        validate_headers({"x-a": "1", "X-A": "2"})


def test_no_validator_takes_a_line_end():
    """`$` matches before a last line feed; `\\Z` does not. With MULTILINE, ends of lines."""
    root = Path(secret_headers.__file__).parent.parent
    wrong = []
    for app in ("routing", "proxy", "monitoring", "gateway_project"):
        for path in (root / app).rglob("*.py"):
            for line in path.read_text().splitlines():
                if re.search(r"""re\.compile\(|RegexValidator\(|re\.(full)?match\(|^\s*r["']\^""", line):
                    wrong += (
                        [f"{path.name}: {line.strip()}"]
                        if re.search(r"""\$["'](?!.*re\.MULTILINE)""", line)
                        else []
                    )
    assert wrong == []


# What a provider repeats


def echoes(secret):
    error = {"message": f"bad key {secret}", "code": secret, "param": secret}
    event = b"data: " + json.dumps({"error": error}).encode() + b"\n\n"
    yield from (Answer(status=status, body={"error": error}) for status in (400, 401, 404, 429, 500))
    yield Answer(body={"error": error})
    yield Answer(chunks=[event])
    yield Answer(chunks=[*events("a", done=False, finish=False), event], gap=0.02)


@pytest.mark.parametrize("sent", [SECRET, f"Bearer {SECRET}", f"session={SECRET}; path=x"])
def test_no_secret_header_that_a_provider_repeats_reaches_a_caller_or_a_log(live, upstream, published, sent):
    provider = make_provider(
        slug="p1", base_url=upstream.url("p1"), retries=0, extra_headers={"x-custom-token": sent}
    )
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key(name=f"k{abs(hash(sent))}")
    published()
    shown, ids = [], []
    for door in (Door("fast_lane", live.url), Door("drf", live.url)):
        for answer in echoes(SECRET):
            upstream.always("p1", answer)
            for stream in (False, True):
                found = door.chat(key, stream=stream)
                ids.append(found.headers["x-litellm-call-id"])
                shown.append(f"{found.headers} {found.text}")
    assert all(seen.headers["x-custom-token"] == sent for seen in upstream.calls("p1"))
    assert [text for text in shown if MIDDLE in text] == []
    rows = RequestLog.objects.filter(id__in=ids)
    until(lambda: rows.count() == len(ids), "the rows are shipped", 30)
    assert MIDDLE not in str(list(rows.values()))
    assert MIDDLE not in live.log.read_text()


def test_a_short_value_is_not_looked_for(live, upstream, published):
    """An API key "test" must not take that word out of every message."""
    provider = make_provider(slug="p1", base_url=upstream.url("p1"), retries=0, api_key="test")
    make_target(route=make_route(name="gpt"), provider=provider)
    _, key = make_key()
    published()
    upstream.always("p1", Answer(status=400, body={"error": {"message": "this test is too long"}}))
    assert Door("fast_lane", live.url).chat(key).json()["error"]["message"] == "this test is too long"


@pytest.mark.django_db
def test_logged_content_is_searched_for_secret_headers():
    make_provider(extra_headers=HEADERS)
    assert _redactor().text(f"they said {SECRET}.") == "they said [redacted]."
