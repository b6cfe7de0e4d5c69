"""Where the gateway connects to: what is never reached, what a setting opens, and that names can't cheat."""

import asyncio
import ipaddress
import json
import os
import smtplib
import socket
import ssl
import subprocess
import sys
from dataclasses import replace

import httpx
import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.utils import timezone

from monitoring.alerts.channels import smtp, webhook
from monitoring.alerts.message import ChannelFailed, Message
from monitoring.health.probe import ask, new_client
from monitoring.health.schedule import with_health
from proxy.transports import TRANSPORTS
from proxy.transports.base import NOT_ALLOWED, ConnectFailed, RequestHead, UpstreamRequest
from proxy.transports.connecting import CheckedBackend
from routing.addresses import (
    AddressRefused,
    Rules,
    for_channels,
    for_environment,
    for_providers,
    literal,
    origin,
)
from routing.models import Provider
from routing.models.fields import validate_base_url
from routing.table import Connection
from tests.factories import make_provider
from tests.live import ROOT
from tests.test_alerts import make_channel
from tests.upstream import Answer, completion

EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
CONNECTION = Connection(connect_timeout=5, read_timeout=5, max_connections=10, queue_timeout=1, keep_alive=60)
OPEN = Rules(EVERYTHING, "PROVIDER_NETWORKS", 4000)
METADATA = [
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[::169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
    "[::ffff:0:169.254.169.254]",
    "[fe80::5efe:a9fe:a9fe]",
    "[2001:4860::5efe:a9fe:a9fe]",
    "[fe80::1]",
    "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "１６９.２５４.１６９.２５４",
    "169。254。169。254",
    "169.254.169.254.",
    "metadata.google.internal",
    "Metadata.Google.Internal.",
    "metadata",
    "instance-data",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",
    "0",
    "[::]",
    "224.0.0.1",
    "[ff02::1]",
    "255.255.255.255",
]
LOOPBACK = ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "[::1]", "[::ffff:127.0.0.1]", "127.9.9.9"]


@pytest.mark.parametrize("host", METADATA)
def test_no_setting_opens_metadata_link_local_unspecified_and_multicast_addresses(host):
    with pytest.raises(AddressRefused, match="never connected to"):
        OPEN.check_url(f"http://{host}/v1")
    with pytest.raises(ValidationError, match="never connected to"):
        validate_base_url(f"http://{host}/v1")


@pytest.mark.parametrize("host", [*LOOPBACK, "10.1.2.3", "192.168.0.1", "[fd12::1]", "100.64.1.1"])
def test_private_addresses_are_for_providers_and_not_for_alert_channels(host, settings):
    settings.CHANNEL_NETWORKS = []
    for_providers().check_url(f"http://{host}:9/v1")
    with pytest.raises(AddressRefused, match="not among CHANNEL_NETWORKS"):
        for_channels().check_url(f"http://{host}:9/v1")
    settings.PROVIDER_NETWORKS = []
    with pytest.raises(ValidationError, match="not among PROVIDER_NETWORKS"):
        validate_base_url(f"http://{host}:9/v1")


@pytest.mark.parametrize("host", ["1.1.1.1", "[2606:4700::1111]", "[64:ff9b::101:101]", "api.example.com"])
def test_public_addresses_and_names_are_taken_as_written(host):
    Rules((), "CHANNEL_NETWORKS", 4000).check_url(f"https://{host}/v1")


@pytest.mark.parametrize("host", LOOPBACK)
def test_the_gateway_does_not_call_itself(host, settings):
    for rules in (for_providers(), for_environment()):
        with pytest.raises(AddressRefused, match="the gateway itself"):
            rules.check_url(f"http://{host}:{settings.PORT}/v1")
        rules.check_url(f"http://{host}:{settings.PORT + 1}/v1")


@pytest.mark.parametrize(
    "url",
    [
        "http://user@169.254.169.254/v1",
        "http://@127.0.0.1/v1",
        "https://api.example.com\\@127.0.0.1/v1",
        "http://127.0.0.1\r\nx: y/v1",
        "http://127.0.0.1/v1\n",
        "http://127.0.0.1/\x00",
        "ftp://127.0.0.1/",
        "file:///etc/passwd",
    ],
)
def test_an_address_with_a_user_a_line_break_or_another_scheme_is_refused(url):
    with pytest.raises(ValidationError):
        validate_base_url(url)


def test_an_origin_is_the_same_however_it_is_written():
    assert origin("HTTPS://API.Example.com./v1") == origin("https://api.example.com:443")
    assert origin("http://0x7f000001/") == origin("http://127.0.0.1:80/v1")
    assert origin("https://api.example.com") != origin("http://api.example.com")
    assert origin("https://api.example.com") != origin("https://api.example.com:8443")
    assert literal("deadbeef") is None


def send(transport, url):
    async def run():
        way = TRANSPORTS[transport](CONNECTION)
        try:
            request = UpstreamRequest(RequestHead(url, []), b"{}", False)
            answer = await way.send(request)
            return answer.status
        finally:
            await way.aclose()

    return asyncio.run(run())


@pytest.fixture
def names(monkeypatch):
    """What the resolver says, by name: another list each time that it is asked."""
    told, real, asked = {}, socket.getaddrinfo, []

    def getaddrinfo(host, port, *rest, **options):
        if host not in told:
            return real(host, port, *rest, **options)
        asked.append(host)
        turn = told[host][min(asked.count(host), len(told[host])) - 1]
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in turn
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return told, asked


def test_a_name_is_looked_at_when_it_is_connected_to(transport, names):
    told, _ = names
    told["rebound.example"] = [["169.254.169.254"]]
    with pytest.raises(ConnectFailed, match=NOT_ALLOWED):
        send(transport, "http://rebound.example:9/v1")


def test_a_refusal_tells_callers_no_address(transport, names):
    told, _ = names
    told["rebound.example"] = [["169.254.169.254"]]
    with pytest.raises(ConnectFailed) as failure:
        send(transport, "http://rebound.example:9/v1")
    assert "169" not in str(failure.value)


def test_what_was_looked_at_is_what_is_connected_to(transport, names, upstream):
    """A second answer of the resolver, the attacker's, is never asked for."""
    told, asked = names
    upstream.script("p", Answer(body=completion()))
    url = upstream.url("p").replace("127.0.0.1", "once.example")
    told["once.example"] = [["127.0.0.1"], ["169.254.169.254"]]
    assert send(transport, f"{url}/chat/completions") == 200
    assert asked == ["once.example"]
    [seen] = upstream.calls("p")
    assert seen.headers["host"].startswith("once.example:")


def test_of_several_addresses_only_those_that_pass_are_connected_to(transport, names, upstream):
    told, _ = names
    upstream.script("p", Answer(body=completion()))
    url = upstream.url("p").replace("127.0.0.1", "mixed.example")
    told["mixed.example"] = [["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "127.0.0.1"]]
    assert send(transport, f"{url}/chat/completions") == 200


def test_the_next_address_is_tried_where_one_takes_no_connection(transport, names, upstream):
    told, _ = names
    upstream.script("p", Answer(body=completion()))
    url = upstream.url("p").replace("127.0.0.1", "two.example")
    told["two.example"] = [["127.0.0.77", "127.0.0.1"]]
    assert send(transport, f"{url}/chat/completions") == 200


def test_the_certificate_and_sni_are_those_of_the_name_as_written(transport, names, monkeypatch):
    told, _ = names
    told["named.example"] = [["127.0.0.1"]]
    asked_for = []

    async def run():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = lambda _socket, name, _context: asked_for.append(name)
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
        url = f"https://named.example:{server.sockets[0].getsockname()[1]}/v1"
        way = TRANSPORTS[transport](CONNECTION)
        with pytest.raises(ConnectFailed):
            await way.send(UpstreamRequest(RequestHead(url, []), b"{}", False))
        await way.aclose()
        server.close()

    asyncio.run(run())
    assert asked_for == ["named.example"]


@pytest.mark.parametrize("url", ["http://0xa9fea9fe/v1", "http://metadata.google.internal/v1"])
def test_behind_a_proxy_names_and_literal_addresses_are_looked_at(url, monkeypatch, upstream):
    monkeypatch.setenv("HTTP_PROXY", upstream.url("proxy"))
    monkeypatch.setenv("http_proxy", upstream.url("proxy"))
    with pytest.raises(ConnectFailed, match=NOT_ALLOWED):
        send("httpx", url)
    assert upstream.calls("proxy") == []


@pytest.mark.django_db
def test_health_checks_look_at_addresses_and_say_why(names):
    told, _ = names
    told["rebound.example"] = [["169.254.169.254"]]
    make_provider(base_url="http://rebound.example/v1")
    [provider] = with_health(Provider.objects.all())

    async def check():
        async with new_client() as client:
            return await ask(client, provider, timezone.now())

    result = asyncio.run(check())
    assert result.problem == "169.254.169.254 is link-local, which is never connected to"


MESSAGE = Message("1", "test", "test", "", "A test", "2026-01-01T00:00:00+00:00")


def test_a_webhook_reaches_no_private_address_unless_the_setting_lists_it(upstream, settings, names):
    told, _ = names
    url = upstream.url("hook").replace("127.0.0.1", "inside.example")
    told["inside.example"] = [["127.0.0.1"]]
    settings.CHANNEL_NETWORKS = []
    with pytest.raises(ChannelFailed, match="is not a public address, and not among CHANNEL_NETWORKS"):
        webhook.send(url, "", MESSAGE, 5)
    assert upstream.calls("hook") == []
    settings.CHANNEL_NETWORKS = [ipaddress.ip_network("127.0.0.0/8")]
    upstream.always("hook", Answer(body={}))
    webhook.send(url, "", MESSAGE, 5)
    assert len(upstream.calls("hook")) == 1


def test_the_mail_server_may_be_private_but_no_metadata_service(names, settings):
    told, _ = names
    told["mail.example"] = [["169.254.169.254"]]
    settings.EMAIL_HOST, settings.EMAIL_PORT = "mail.example", 25
    with pytest.raises(ConnectionRefusedError, match="link-local"):
        smtp.CheckedEmailBackend(timeout=5).open()
    with socket.create_server(("127.0.0.1", 0)) as server:
        told["mail.example"] = [["127.0.0.1"]]
        settings.EMAIL_PORT = server.getsockname()[1]
        with pytest.raises(smtplib.SMTPServerDisconnected):  # it was connected to: nobody greets there
            smtp.CheckedEmailBackend(timeout=0.2).open()


def test_httpx_still_has_the_place_where_addresses_are_looked_at():
    client = new_client()
    assert isinstance(client._transport._pool._network_backend, CheckedBackend)
    assert isinstance(httpx.AsyncHTTPTransport()._pool._network_backend, object)


@pytest.mark.django_db
def test_a_system_check_lists_what_is_shut_out(settings, capsys):
    make_provider(slug="meta", base_url="http://169.254.169.254/v1")
    make_provider(slug="inside", base_url="http://localhost:9/v1")
    make_provider(slug="off", base_url="http://169.254.169.254/v1", enabled=False)
    make_channel(name="hook", target="http://localhost:9/hook")
    settings.CHANNEL_NETWORKS = []
    call_command("check", databases=["default"])
    told = capsys.readouterr().err
    assert "Provider meta: 169.254.169.254 is link-local" in told
    assert "Alert channel hook: " in told
    assert "inside" not in told
    assert "off" not in told
    settings.PROVIDER_NETWORKS = []
    call_command("check", databases=["default"])
    assert "Provider inside: " in capsys.readouterr().err


def test_the_settings_are_read_strictly(tmp_path):
    def networks(**values):
        code = "from django.conf import settings as s"
        code += "; print([len(s.PROVIDER_NETWORKS), len(s.CHANNEL_NETWORKS)])"
        env = {name: text for name, text in os.environ.items() if name != "CHANNEL_NETWORKS"}
        return subprocess.run(
            [sys.executable, "-c", code],
            env=env | {"DATA_DIR": str(tmp_path)} | values,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    assert json.loads(networks().stdout) == [8, 0]
    assert json.loads(
        networks(PROVIDER_NETWORKS="none", CHANNEL_NETWORKS="private, 203.0.113.0/24").stdout
    ) == [0, 9]
    wrong = networks(PROVIDER_NETWORKS="everything")
    assert wrong.returncode
    assert "Allowed are none, private, addresses and networks" in wrong.stderr


def test_a_setting_for_providers_opens_other_networks_only_where_nothing_forbids_them():
    with pytest.raises(AddressRefused):
        replace(OPEN, networks=()).check("10.0.0.1")
    OPEN.check("10.0.0.1")
