"""Names and files that were made to do harm: in subjects, spreadsheets, headers and YAML."""

import csv
import io
import time
import tracemalloc

import pytest
from django.core.management import call_command
from django.urls import reverse
from django.utils import timezone

from monitoring.alerts.delivering import deliver
from monitoring.models import AlertChannel, AlertDelivery
from monitoring.shipping.storing import store
from monitoring.usage.csv_cells import safe
from proxy.answers.headers import _ascii
from routing.config import document
from routing.config.loader import load_file
from routing.config.report import ConfigInvalid, Notes
from tests.factories import make_key
from tests.test_alerts import form, ill, look, mailbox, make_channel, send_due  # noqa: F401
from tests.test_journal_faults import closed

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("end", ["\n", "\r\nBcc: evil@example.com", "\x0b", "\x85", "\u2028", "\x00"])
def test_a_line_end_in_a_name_becomes_a_blank_in_the_subject(mailbox, end):  # noqa: F811
    make_channel(kind="email", target="a@example.com")
    make_key(name=f"first{end}second", expires_at=timezone.now() + timezone.timedelta(days=1))
    look()
    [mail] = mailbox.mails
    head = mail.split("\n\n")[0]
    assert "\nBcc:" not in head
    assert AlertDelivery.objects.get().status == "sent"


def test_no_message_ends_the_thread_that_sends_the_others(upstream, monkeypatch):
    from monitoring.alerts import channels

    real, broken = channels.KINDS["webhook"], []

    def breaks_once(*arguments):
        if not broken:
            broken.append(arguments)
            raise ValueError("a fault that nobody thought of, with a secret in it")
        real(*arguments)

    monkeypatch.setitem(channels.KINDS, "webhook", breaks_once)
    channel = make_channel(target=upstream.url("hook"))
    for _ in range(2):
        AlertDelivery.objects.create(channel=channel, event="fired", summary="A test")
    for thread in deliver(timezone.now()):
        thread.join(30)
    assert len(upstream.calls("hook")) == 1
    assert sorted(AlertDelivery.objects.values_list("status", "last_error")) == [
        ("pending", "ValueError: not sent; the gateway's log says why"),
        ("sent", ""),
    ]


@pytest.mark.parametrize(
    "cell",
    ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "\n=1", "\r\n=1", " =1", "\0=1", "＝1", "＋1", "－1", "＠a"],
)
def test_no_cell_of_a_csv_is_a_formula(cell):
    assert safe({"group": cell, "cost": -1}) == {"group": f"'{cell}", "cost": -1}
    assert safe({"group": "a=b", "empty": ""}) == {"group": "a=b", "empty": ""}


def test_the_command_writes_no_formula_either():
    store([closed(team="\r=cmd()")])
    output = io.StringIO()
    call_command("usage_report", "--group-by", "team", "--format", "csv", stdout=output)
    groups = [line["group"] for line in csv.DictReader(io.StringIO(output.getvalue(), newline=""))]
    assert "'\r=cmd()" in groups
    assert "\r=cmd()" not in groups


def test_a_header_made_of_a_name_is_one_line_of_printable_ascii():
    assert _ascii("gpt\r\nset-cookie: x\x00é\x7f") == b"gpt??set-cookie: x???"


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {k: v}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize("bomb", [LAUGHS, MERGES])
def test_aliases_that_stand_for_billions_of_values_are_refused_before_they_are_written_out(bomb):
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ConfigInvalid, match="1,000,000 values"):
        document.parse(bomb, "bomb.yaml", Notes())
    assert time.process_time() - began < 5
    assert tracemalloc.get_traced_memory()[1] < 16_000_000
    tracemalloc.stop()


def test_aliases_as_people_use_them_are_read():
    assert document.parse("a: &a {k: 1}\nb: {<<: *a, l: 2}\nc: [*a, *a]", "x", Notes()) == {
        "a": {"k": 1},
        "b": {"k": 1, "l": 2},
        "c": [{"k": 1}, {"k": 1}],
    }


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 100_000, "a: " * 50_000, "{" * 100_000])
def test_yaml_inside_itself_or_too_deep_is_refused(text):
    with pytest.raises(ConfigInvalid):
        document.parse(text, "deep.yaml", Notes())


def test_a_file_too_large_to_be_a_configuration_is_not_read(tmp_path):
    file = tmp_path / "big.yaml"
    with open(file, "wb") as big:
        big.truncate(document.MOST_BYTES + 1)
    with pytest.raises(ConfigInvalid, match="is larger than"):
        load_file(file)


# Alert channels: another host needs the secret anew.


def change(channel):
    return reverse("admin:monitoring_alertchannel_change", args=[channel.pk])


def errors(answer):
    assert answer.status_code == 200
    return answer.context["adminform"].form.errors


def test_another_host_needs_the_signing_secret_anew(admin_client):
    channel = make_channel(target="https://hooks.example/a", secret="signing-secret")
    moved = form(name="hook", new_target="https://evil.example/a")
    assert "type the secret anew" in errors(admin_client.post(change(channel), moved))["new_secret"][0]
    assert AlertChannel.objects.get().target == "https://hooks.example/a"
    here = form(name="hook", new_target="https://hooks.example/b")
    assert admin_client.post(change(channel), here).status_code == 302
    assert AlertChannel.objects.get().secret == "signing-secret"
    assert admin_client.post(change(channel), moved | {"new_secret": "typed"}).status_code == 302
    assert AlertChannel.objects.get().secret == "typed"
    there = form(name="hook", new_target="https://third.example/a", clear_secret="on")
    assert admin_client.post(change(channel), there).status_code == 302
    assert AlertChannel.objects.get().secret == ""


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://169.254.169.254/latest", "never connected to"),
        ("http://10.0.0.1/hook", "CHANNEL_NETWORKS"),
        ("https://user:pw@hooks.example/a", "Allowed are"),
        ("http://hooks.example/\\@evil", "Allowed are"),
        ("http://", "Allowed are"),
        ("http://a b/", "Allowed are"),
    ],
)
def test_a_channel_at_an_address_that_is_not_reached_is_refused(admin_client, target, why, settings):
    settings.CHANNEL_NETWORKS = []
    answer = admin_client.post(reverse("admin:monitoring_alertchannel_add"), form(new_target=target))
    assert why in errors(answer)["new_target"][0]
