"""`make serve` while its parts are killed, one after the other, with a stream that goes on."""

import os
import re
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway_project.first_run import DEMO_NAME, set_up
from routing.models import Provider
from tests import plain
from tests.factories import make_provider, make_target
from tests.live import until
from tests.served import Served
from tests.test_serve import Browser
from tests.test_serve_ends import Streaming, nothing_runs

MARKS = {"background": "gateway_project.background", "shipper": "ship_journal", "web": "gateway_project.web"}


@pytest.fixture
def served(migrated: Path) -> Iterator[Served]:
    gateway = Served(migrated, ALERT_TICK_SECONDS="1").start()
    yield gateway
    gateway.kill()


def process_of(served: Served, part: str) -> int:
    def find() -> list[int]:
        return [number for number, line in served.processes().items() if MARKS[part] in line]

    until(lambda: len(find()) == 1, lambda: f"one {part} runs: {served.processes()}", 60)
    return find()[0]


def kill(served: Served, part: str) -> None:
    """With -9, and wait until another one runs."""
    number = process_of(served, part)
    os.kill(number, signal.SIGKILL)
    until(lambda: number not in served.processes(), f"{part} is gone")
    process_of(served, part)


def alert_summaries(served: Served) -> list[str]:
    with closing(sqlite3.connect(served.data_dir / "switchstand.sqlite3")) as database:
        return [text for (text,) in database.execute("select summary from monitoring_alert")]


@pytest.mark.parametrize("part", ["background", "shipper"])
def test_a_part_that_is_killed_comes_back_and_is_named_while_streams_go_on(served: Served, part: str) -> None:
    for each in MARKS:
        process_of(served, each)
    browser = Browser(served.url)
    browser.log_in(served.password)
    stream = Streaming(served, words=200)  # about 10 s
    kill(served, part)
    answer = plain.get(f"{served.url}/health/readiness")
    assert answer.status_code == 200
    assert part in answer.json()["failed"]
    assert "ended (killed by SIGKILL) and is started again" in browser.client.get("/admin/").text
    until(
        lambda: any("killed by SIGKILL" in text for text in alert_summaries(served)),
        lambda: f"{alert_summaries(served)}\n{served.output}",
        60,
    )
    stream.join(60)
    assert stream.problem is None
    assert stream.lines[-1] == "data: [DONE]"
    assert len(re.findall(r"ended \(killed by SIGKILL\); it is started again at once", served.output)) == 1


def test_a_web_process_that_is_killed_comes_back_with_its_shipper_and_its_open_call_is_a_row(
    served: Served,
) -> None:
    process_of(served, "shipper")
    Streaming(served, words=400)
    kill(served, "web")
    until(lambda: served.ready(), lambda: served.output, 60)
    assert served.ask().status_code == 200
    process_of(served, "shipper")

    def outcomes() -> list[str]:
        with closing(sqlite3.connect(served.data_dir / "switchstand.sqlite3")) as database:
            return sorted(text for (text,) in database.execute("select outcome from monitoring_requestlog"))

    until(lambda: outcomes() == ["answered", "unknown"], lambda: f"{outcomes()}\n{served.output}", 60)
    assert served.output.count("web        | ended (killed by SIGKILL); it is started again at once") == 1


def test_a_killed_supervisor_leaves_nothing_behind_and_the_next_start_works_at_once(migrated: Path) -> None:
    first = Served(migrated).start()
    stream = Streaming(first, words=25)  # with the greeting about 2 s: less than the drain
    assert first.process is not None
    first.process.kill()
    second = Served(migrated, port=first.port).start()
    try:
        body = {"model": "demo-echo", "messages": [{"role": "user", "content": "Hello"}]}
        headers = {"authorization": f"Bearer {first.key}"}
        answer = plain.post(f"{second.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        stream.join(30)
        assert stream.lines[-1] == "data: [DONE]", "web drained"
    finally:
        second.kill()
    nothing_runs(second)


def test_torn_messages_of_an_earlier_release_are_ignored(migrated: Path) -> None:
    messages = migrated / "broker" / "messages"
    messages.mkdir(parents=True)
    (messages / "0_x.celery.msg").touch()
    (migrated / "beat-schedule").write_bytes(b"torn")
    served = Served(migrated).start()
    try:
        for each in MARKS:
            process_of(served, each)
        until((migrated / "locks").exists, lambda: served.output, 60)
        ran = lambda: list((migrated / "locks").glob("task*probe_providers*"))  # noqa: E731
        until(ran, lambda: f"tasks run\n{served.output}", 60)
        assert served.ask().status_code == 200
        assert "ended (" not in served.output
    finally:
        served.kill()


def test_the_demo_provider_moves_to_another_port_without_an_edit(migrated: Path, version: Callable) -> None:
    first = Served(migrated).start()
    before = version(migrated)
    key, password = first.key, first.password
    first.stop()
    second = Served(migrated).start()
    try:
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "demo-echo", "messages": [{"role": "user", "content": "Hello"}]}
        answer = plain.post(f"{second.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
        assert version(migrated) == before
        browser = Browser(second.url)
        browser.log_in(password)
        browser.submit("/admin/routing/provider/1/change/", base_url="http://127.0.0.1:9/v1")
    finally:
        second.stop()
    third = Served(migrated).start()
    third.stop()
    with closing(sqlite3.connect(migrated / "switchstand.sqlite3")) as database:
        [url] = database.execute("select base_url from routing_provider").fetchone()
    assert url == "http://127.0.0.1:9/v1", "who points it elsewhere is respected"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("listens", "name", "moved"), [(False, DEMO_NAME, 1), (True, DEMO_NAME, 0), (False, "Mine", 0)]
)
def test_a_demo_provider_of_an_earlier_release_is_moved_once(settings, tmp_path, listens, name, moved):
    settings.DEMO_ADDRESS_FILE = tmp_path / "demo.address"
    settings.EMBEDDED = True
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        if listens:
            service.listen()
        old = f"http://127.0.0.1:{service.getsockname()[1]}/v1"
        demo = make_provider(slug="demo", name=name, base_url=old)
        make_target(provider=demo, upstream_model="echo")
        set_up()
        demo.refresh_from_db()
        assert demo.base_url == ("http://demo.invalid/v1" if moved else old)
        Provider.objects.update(base_url=old)
        set_up()
        demo.refresh_from_db()
        assert demo.base_url == old, "it is looked at once"


@pytest.fixture
def version() -> Callable[[Path], int]:
    def read(directory: Path) -> int:
        with closing(sqlite3.connect(directory / "switchstand.sqlite3")) as database:
            return int(database.execute("select number from routing_routingversion").fetchone()[0])

    return read
