"""Content logging: off by default, encrypted, redacted, kept for its days, and looked at by few and noted."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.urls import reverse
from hypothesis import given
from hypothesis import strategies as st

from monitoring.content.reading import read
from monitoring.content.redacting import Redactor
from monitoring.content.storing import opened, store
from monitoring.models import ContentAccess, RequestContent, RequestLog
from monitoring.retention.retention import prune_content
from proxy.content.records import Content, from_line, pack, to_line
from proxy.ids import uuid7
from proxy.journal.records import BadLine
from routing import credentials
from routing.models import GatewaySettings
from routing.models.content import check_pattern
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import Door, LiveGateway, until
from tests.test_alerts import make_channel
from tests.upstream import Answer, completion, events

pytestmark = pytest.mark.django_db(transaction=True)
CREDENTIAL = "upstream-credential-1"
CARD = "4111 1111 1111 1111"


@pytest.fixture
def served(upstream):
    """A function: a route and a key with these levels."""

    def make(route="", key="", **values):
        provider = make_provider(slug="p1", base_url=upstream.url("p1"), api_key=CREDENTIAL, retries=0)
        found = make_route(name="gpt", content_log=route)
        make_target(route=found, provider=provider)
        _, plaintext = make_key(name="app", content_log=key, **values)
        return plaintext

    return make


def kept(answer):
    """The row of a call's content, once it is shipped."""
    call = answer.headers["x-litellm-call-id"]
    return until(lambda: RequestContent.objects.filter(pk=call).first(), f"the content of {call}")


def logged_row(answer):
    call = answer.headers["x-litellm-call-id"]
    return until(lambda: RequestLog.objects.filter(pk=call).first(), f"the row of {call}")


def test_it_is_off_by_default(live, door, published, served):
    key = served()
    published()
    answer = door.chat(key)
    assert answer.status_code == 200
    logged_row(answer)
    assert not RequestContent.objects.exists()
    assert not (live.data_dir / "content").exists() or not list((live.data_dir / "content").glob("*.journal"))


@pytest.mark.parametrize(
    ("route", "key", "level"),
    [("metadata", "", 1), ("", "full", 2), ("metadata", "full", 2), ("full", "metadata", 2)],
)
def test_the_larger_level_of_key_and_route_holds(door, published, served, route, key, level):
    plaintext = served(route, key)
    published()
    assert kept(door.chat(plaintext)).level == level


@pytest.mark.parametrize(("route", "key"), [("never", "full"), ("full", "never")])
def test_never_holds_over_all(door, published, served, route, key):
    plaintext = served(route, key)
    published()
    logged_row(door.chat(plaintext))
    assert not RequestContent.objects.exists()


def test_metadata_has_no_word_of_it(live, door, published, served):
    key = served("metadata")
    published()
    answer = door.chat(key, messages=[{"role": "user", "content": "a secret plan"}], temperature=0.5)
    row = kept(answer)
    assert row.encrypted == ""
    assert row.facts["roles"] == {"user": 1}
    assert row.facts["parameters"] == {"temperature": 0.5}
    assert (row.facts["finish_reason"], row.facts["answer_bytes"]) == ("stop", len(answer.content))
    assert "plan" not in json.dumps(row.facts)


def test_full_is_encrypted_in_the_journal_and_in_the_table(live, door, published, served, upstream):
    key = served("full")
    published()
    upstream.always("p1", Answer(body=completion("the answer is forty-two")))
    answer = door.chat(key, messages=[{"role": "user", "content": "what is the question"}])
    row = kept(answer)
    found = opened(row)
    assert found["request"]["messages"][0]["content"] == "what is the question"
    assert found["answer"]["choices"][0]["message"]["content"] == "the answer is forty-two"
    assert "question" not in row.encrypted
    for path in live.data_dir.rglob("*"):
        if path.is_file() and path.suffix in (".journal", ".log"):
            assert b"forty-two" not in path.read_bytes(), path


def test_a_stream_is_put_together_and_what_it_splits_is_redacted(door, published, served, upstream):
    key = served("full")
    published()
    words = ("my key is sk-abc", "defghijkl", "mnopqrstuv", "wxyz and that is it")
    upstream.always("p1", Answer(chunks=events(*words, usage=True)))
    with door.stream(key) as answer:
        text = answer.read().decode()
    assert "sk-abc" in text  # the caller gets what was said
    found = opened(kept(answer))
    choice = found["answer"]["choices"][0]
    assert choice["delta"]["content"] == "my key is [redacted] and that is it"


def test_credentials_and_patterns_are_redacted(live, door, published, served, upstream):
    GatewaySettings.objects.create(pk=1, content_patterns=[r"\b(?:\d{4} ){3}\d{4}\b", r"(?i)project\s+x\w*"])
    key = served("full", allowed_routes=())
    published()
    upstream.always(
        "p1", Answer(body=completion(f"told: {CREDENTIAL}, {key}, {CARD}, Projekt, project  Xylo"))
    )
    secrets = {"role": "user", "content": f"card {CARD} {key} password: hunter2hunter2", "api_key": "x"}
    row = kept(door.chat(key, messages=[secrets]))
    whole = json.dumps(opened(row))
    for secret in (CARD, key, CREDENTIAL, "hunter2", "Xylo"):
        assert secret not in whole
    assert "Projekt" in whole
    assert opened(row)["request"]["messages"][0]["api_key"] == "[redacted]"


def test_a_failed_call_keeps_its_question(door, published, served, upstream):
    key = served("full")
    published()
    upstream.always("p1", Answer(status=500))
    answer = door.chat(key, messages=[{"role": "user", "content": "why"}])
    assert answer.status_code == 502
    found = opened(kept(answer))
    assert (found["request"]["messages"][0]["content"], found["answer"]) == ("why", "")


def test_long_content_is_cut(door, published, served):
    key = served("full")
    published()
    row = kept(door.chat(key, messages=[{"role": "user", "content": "x" * 400_000}]))
    assert row.cut
    assert len(opened(row)["request"]) == 262144


def test_a_killed_process_leaves_its_content_to_be_shipped(tmp_path, served, upstream):
    key = served("full")
    gateway = LiveGateway(tmp_path, {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}"}).start()
    try:
        door = Door("fast_lane", gateway.url)
        calls = {door.chat(key).headers["x-litellm-call-id"] for _ in range(20)}
        time.sleep(0.3)  # content is written once the answer is sent
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(10)
        gateway.process = None
        gateway.start()
        found = RequestContent.objects.filter(pk__in=calls)
        until(lambda: found.count() == 20, lambda: f"{found.count()} of 20", 30)
        until(lambda: not list((tmp_path / "content").glob("*.journal")), "the dead one's files are gone", 30)
    finally:
        gateway.stop()


# What is kept


def record(days=0.0, request=b'{"a": 1}', answer=b"", **values):
    at = datetime.now(UTC) - timedelta(days=days)
    moment = int(at.timestamp() * 1e9)
    token = credentials.encrypt_bytes(pack(request, answer))
    return Content(id=uuid7(moment), received_at_ns=moment, level=2, token=token, **values)


def test_content_goes_after_its_days_and_never_later_than_its_row():
    store([record(days) for days in (0, 3, 8, 30)])
    prune_content(datetime.now(UTC))
    assert RequestContent.objects.count() == 2  # seven days
    GatewaySettings.objects.create(pk=1, content_days=30, log_days=2)
    prune_content(datetime.now(UTC))
    assert RequestContent.objects.count() == 1


def test_a_record_that_is_shipped_twice_is_one_row_and_a_bad_one_none():
    good = record()
    store([good, good])
    store([good, Content(id=uuid7(), received_at_ns=1, level=2, token="gAAAA")])
    assert RequestContent.objects.count() == 1
    line = to_line(good)
    assert from_line(line[:-1]) == good
    with pytest.raises(BadLine):
        from_line(line[:-5])


def test_rotation_takes_all_that_is_encrypted(settings):
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode()]
    make_provider(slug="p", api_key="sk-provider")
    channel = make_channel(target="https://hook.example.com", secret="shh")
    store([record()])
    old = settings.ENCRYPTION_KEYS
    settings.ENCRYPTION_KEYS = [Fernet.generate_key().decode(), *old]
    out = io.StringIO()
    call_command("rotate_encryption_key", stdout=out)
    assert out.getvalue().strip() == "4 re-encrypted, 0 under the newest key already"
    settings.ENCRYPTION_KEYS = settings.ENCRYPTION_KEYS[:1]
    channel.refresh_from_db()
    assert (channel.target, channel.secret) == ("https://hook.example.com", "shh")
    assert opened(RequestContent.objects.get()) == {"request": {"a": 1}, "answer": ""}


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(", "missing"), ("a*", "matches nothing at all"), ("(?=x)y", "RE2"), ("x" * 501, "1 to 500")],
)
def test_a_pattern_that_can_not_be_is_refused(admin_client, pattern, why):
    with pytest.raises(ValidationError, match=why):
        check_pattern(pattern)
    GatewaySettings.objects.create(pk=1)
    url = reverse("admin:routing_gatewaysettings_change", args=[1])
    page = admin_client.post(url, {"content_patterns": pattern}).content.decode()
    assert why in page


@given(st.text(max_size=300), st.integers(0, 300))
def test_what_a_stream_splits_is_found_wherever_it_is_split(text, at):
    secret = "sk-0123456789abcdefghij"
    whole = text + " " + secret + " "
    at = min(at, len(whole))
    pieces = [
        json.dumps({"choices": [{"index": 0, "delta": {"content": part}}]})
        for part in (whole[:at], whole[at:])
    ]
    stream = "".join(f"data: {piece}\n\n" for piece in pieces) + "data: [DONE]\n\n"
    found = Redactor().tree(read(stream.encode(errors="replace")))
    assert secret not in json.dumps(found)


def test_tool_calls_of_a_stream_are_put_together_by_their_index():
    def event(index, part, name=None):
        call = {"index": index, "function": {"arguments": part} | ({"name": name} if name else {})}
        return "data: " + json.dumps({"id": "c1", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})

    parts = [event(0, '{"a"', "first"), event(1, '{"b"', "second"), event(0, ": 1}"), event(1, ": 2}")]
    found = read("\n\n".join(parts).encode())
    functions = [call["function"] for call in found["choices"][0]["delta"]["tool_calls"]]
    assert functions == [
        {"arguments": '{"a": 1}', "name": "first"},
        {"arguments": '{"b": 2}', "name": "second"},
    ]
    assert found["id"] == "c1"


# Who may look


def viewer(django_user_model, *permissions):
    from django.contrib.auth.models import Permission

    user = django_user_model.objects.create_user(f"user{len(permissions)}", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def test_looking_needs_a_permission_and_is_noted_each_time(client, django_user_model, admin_client, settings):
    call = record(request=b'{"messages": "<b>hidden</b> words"}', key_name="app")
    store([call])
    RequestLog.objects.create(
        id=call.id, received_at=datetime.now(UTC), request_id="r", outcome="answered", endpoint="x"
    )
    url = reverse("admin:monitoring_requestlog_content", args=[call.id])
    row_page = reverse("admin:monitoring_requestlog_change", args=[call.id])
    assert client.get(url).status_code == 302  # to the log-in
    client.force_login(viewer(django_user_model, "view_requestlog"))
    assert url in client.get(row_page).content.decode()
    assert client.get(url).status_code == 403
    assert not ContentAccess.objects.exists()
    allowed = viewer(django_user_model, "view_requestlog", "view_requestcontent")
    client.force_login(allowed)
    for looked in (1, 2):
        answer = client.get(url, headers={"x-forwarded-for": "203.0.113.5"})
        assert answer.status_code == 200
        assert "&lt;b&gt;hidden&lt;/b&gt; words" in answer.content.decode()
        assert "no-store" in answer.headers["cache-control"]
        assert ContentAccess.objects.count() == looked
    seen = ContentAccess.objects.first()
    assert seen.address == "127.0.0.1"  # who is not a trusted proxy may write what they like
    settings.TRUSTED_PROXIES = [ip_network("127.0.0.0/8")]
    client.get(url, headers={"x-forwarded-for": "198.51.100.1, 203.0.113.5"})
    assert ContentAccess.objects.first().address == "203.0.113.5"
    assert (seen.username, str(seen.request), seen.key_name) == (allowed.username, call.id, "app")
    assert (
        allowed.username
        in admin_client.get(reverse("admin:monitoring_contentaccess_changelist")).content.decode()
    )
    delete = reverse("admin:monitoring_contentaccess_delete", args=[seen.pk])
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    assert client.get(reverse("admin:monitoring_requestlog_content", args=[uuid7()])).status_code == 404


def test_the_list_of_requests_never_reads_content(admin_client, django_assert_max_num_queries):
    store([record()])
    with django_assert_max_num_queries(12) as queries:
        admin_client.get(reverse("admin:monitoring_requestlog_changelist"))
    assert not [one for one in queries if "requestcontent" in one["sql"]]


def test_while_the_database_is_locked_content_waits_in_its_journal(live, published, served, door):
    key = served("full")
    published()
    with contextlib.closing(sqlite3.connect(TEST_DATABASE, isolation_level=None)) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        answers = [door.chat(key) for _ in range(5)]
        assert [answer.status_code for answer in answers] == [200] * 5
        assert not RequestContent.objects.exists()
        lock.execute("ROLLBACK")
    assert all(kept(answer) for answer in answers)
    assert live.readiness()["content_records_lost"] == 0
