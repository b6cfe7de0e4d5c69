"""`make serve` from an empty directory to its end, as a newcomer meets it."""

import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path

import httpx
import pytest

from tests import plain
from tests.live import free_port, until
from tests.served import Served
from tests.upstream import Answer, FakeUpstream

HELLO = "This is the demo provider of Switchstand"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that is left running by the tests that use it."""
    gateway = Served(tmp_path_factory.mktemp("serve") / "made").start()
    yield gateway
    gateway.kill()
    print(gateway.output)  # shown where a test has failed: one that ended by itself says why


def shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Browser:
    """Logs in as a person does: the form, its token, its cookies."""

    def __init__(self, url: str) -> None:
        self.client = plain.Client(base_url=url, follow_redirects=True)

    def log_in(self, password: str) -> httpx.Response:
        return self.submit("/admin/login/", username="admin", password=password)

    def submit(self, path: str, **values: str) -> httpx.Response:
        """Fill in the form of this page and send it."""
        page = self.client.get(path)
        return self.client.post(
            path, data=form_values(page.text) | values, headers={"referer": str(page.url)}
        )


def form_values(page: str) -> dict[str, str]:
    """What a browser would send of the page's inputs and selections without any change."""
    found = {}
    for tag in re.findall(r"<input[^>]*>", page):
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        kind = attributes.get("type", "text")
        if kind in ("submit", "button", "file") or "name" not in attributes:
            continue
        if kind in ("checkbox", "radio") and not re.search(r"\schecked", tag):
            continue
        found[attributes["name"]] = unescape(attributes.get("value", "on" if kind == "checkbox" else ""))
    for name, options in re.findall(r'<select name="([^"]+)".*?>(.*?)</select>', page, re.DOTALL):
        if chosen := re.search(r'<option value="([^"]*)"[^>]*\sselected', options):
            found[name] = unescape(chosen[1])
    for name, text in re.findall(r'<textarea name="([^"]+)".*?>\s*(.*?)</textarea>', page, re.DOTALL):
        found[name] = unescape(text)
    return found


def test_the_printed_curl_line_answers(served: Served) -> None:
    answer = json.loads(shell(served.curl.replace("curl ", "curl -sS --fail ", 1)))
    assert answer["choices"][0]["message"]["content"].startswith(HELLO)
    assert answer["usage"]["total_tokens"] > 0


def test_the_printed_curl_line_streams_as_its_hint_says(served: Served) -> None:
    assert 'add "stream": true to stream' in served.secrets
    command = served.curl.replace('"messages"', '"stream": true, "messages"').replace(
        "curl ", "curl -sSN ", 1
    )
    lines = [line for line in shell(command).splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    deltas = [json.loads(line.removeprefix("data: "))["choices"] for line in lines[:-1]]
    text = "".join(choices[0]["delta"].get("content", "") for choices in deltas if choices)
    assert text.startswith(HELLO)


def test_the_printed_user_and_password_log_in(served: Served) -> None:
    assert served.password
    browser = Browser(served.url)
    refused = browser.log_in("not-" + served.password)
    assert refused.url.path == "/admin/login/"
    page = browser.log_in(served.password)
    assert page.url.path == "/admin/"
    assert "Model routes" in page.text


def test_an_edit_in_the_admin_is_live_a_second_later(served: Served) -> None:
    browser = Browser(served.url)
    browser.log_in(served.password)
    listed = browser.client.get("/admin/routing/routetarget/").text
    path = re.search(r'"(/admin/routing/routetarget/\d+/change/)', listed)
    assert path, listed
    try:
        saved = browser.submit(path[1], upstream_model="echo-two")
        time.sleep(1)
        answer = served.ask()
        assert saved.url.path == "/admin/routing/routetarget/", saved.text
        # The demo provider says the model that it was asked for.
        assert answer.json()["model"] == "echo-two"
        assert answer.headers["x-proxy-provider"] == "demo"
    finally:
        browser.submit(path[1], upstream_model="echo")


def test_no_secret_is_readable_by_others(served: Served) -> None:
    assert list(served.data_dir.glob("*.secret"))
    served.ask()
    for path in [served.data_dir, *served.data_dir.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_start_keeps_the_key_and_prints_no_secret(start: Callable[..., Served]) -> None:
    first = start()
    key, password = first.key, first.password
    first.stop()
    second = start()
    assert not second.password
    assert "sk-" not in second.output
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "demo-echo", "messages": [{"role": "user", "content": "Hello"}]}
    until(
        lambda: plain.post(f"{second.url}/v1/chat/completions", json=body, headers=headers).is_success,
        "the first start's key works",
    )
    assert Browser(second.url).log_in(password).url.path == "/admin/"


def test_a_start_that_fails_loses_no_password(begin: Callable[..., Served], tmp_path: Path) -> None:
    broken = tmp_path / "litellm_config.yaml"
    broken.write_text("model_list: [")
    failed = begin(LITELLM_CONFIG=str(broken))
    assert failed.process is not None
    assert failed.process.wait(30) == 1
    assert not failed.password
    served = begin().wait_until_ready()
    assert Browser(served.url).log_in(served.password).url.path == "/admin/"


def test_a_taken_port_is_said_plainly(begin: Callable[..., Served]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        served = begin(port=port)
        assert served.process is not None
        assert served.process.wait(20) == 1
    assert f"Port {port} is taken" in served.output
    assert "Traceback" not in served.output
    assert not served.password, "a password that scrolls by with an error is lost"


def health_in_admin(browser: Browser) -> str:
    """The demo provider's status in the list of providers."""
    page = browser.client.get("/admin/routing/provider/").text
    [row] = [row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if "/v1" in row]
    found = re.search(r"unhealthy|healthy|unknown", row)
    assert found, row
    return found[0]


def test_probes_find_an_ill_provider_and_its_recovery(
    start: Callable[..., Served], upstream: FakeUpstream
) -> None:
    """How soon: test_monitoring_whole.py."""
    served = start()
    browser = Browser(served.url)
    browser.log_in(served.password)
    values = {
        "base_url": upstream.url("watched"),
        "health_interval": "5",
        "health_threshold": "1",
        "when_unhealthy": "refuse",
    }
    browser.submit("/admin/routing/provider/1/change/", **values)
    until(lambda: health_in_admin(browser) == "healthy", "the provider is healthy", 40)
    assert served.ask().status_code == 200

    upstream.always("watched", Answer(status=500, body={"error": {"message": "down"}}))
    until(lambda: health_in_admin(browser) == "unhealthy", "the provider is unhealthy", 40)
    until(lambda: served.ask().status_code == 503, "requests are refused")
    refused, before = served.ask(), len(upstream.calls("watched"))
    assert refused.json()["error"]["code"] == "no_healthy_upstream"
    assert served.ask().status_code == 503
    assert len(upstream.calls("watched")) == before, "nothing reached the provider"
    assert plain.get(f"{served.url}/health").json()["providers"] == {"demo": "unhealthy"}

    upstream.always("watched", Answer())
    until(lambda: health_in_admin(browser) == "healthy", "the provider has recovered", 40)
    until(lambda: served.ask().status_code == 200, "requests are served again")
