"""Damage and a full disk: never silent, and as little is lost as can be."""

import itertools
import resource
import threading
import time

import pytest

from monitoring.models import RequestLog
from monitoring.shipping.shipper import Shipper
from monitoring.shipping.state import DAMAGE_FILE, read_state
from proxy.ids import uuid7
from proxy.journal.records import Closed, Opened, to_line
from tests import plain
from tests.conftest import TEST_DATABASE
from tests.factories import make_key, make_provider, make_route, make_target
from tests.live import LiveGateway, ask, until
from tests.upstream import Answer

numbers = itertools.count()


def closed(**values):
    moment = values.get("received_at_ns", time.time_ns())
    call = uuid7(moment)
    facts = {"id": call, "received_at_ns": moment, "request_id": call, "outcome": "answered"}
    return Closed(**facts | {"endpoint": "chat/completions", "cost_nano_usd": 5} | values)


def opened(**values):
    call = uuid7()
    facts = {"id": call, "received_at_ns": time.time_ns(), "request_id": call, "endpoint": "chat/completions"}
    names = {"stream": False, "model": "gpt", "key_id": None, "key_name": "", "team": "", "route": "gpt"}
    return Opened(**facts | names | values)


def dead_journal(directory, *lines):
    """A segment whose writer lives no more."""
    directory.mkdir(exist_ok=True)
    path = directory / f"worker{next(numbers)}.00000000.journal"
    path.write_bytes(b"".join(lines))
    return path


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_torn_last_record_is_counted_and_its_call_unknown(tmp_path):
    begun = opened(reserved_nano_usd=700)
    dead_journal(tmp_path, to_line(begun), to_line(closed(id=begun.id))[:80])
    Shipper(tmp_path).ship()
    (row,) = RequestLog.objects.all()
    assert (row.outcome, row.cost_nano_usd, row.tokens_estimated) == ("unknown", 700, True)
    state = read_state(tmp_path)
    assert (state.damaged, state.unknown) == (1, 1)
    assert begun.id in (tmp_path / DAMAGE_FILE).read_text()
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_an_altered_record_is_counted_once_and_stops_no_other(tmp_path):
    first, last = closed(), closed()
    altered = to_line(closed(cost_nano_usd=12345)).replace(b"12345", b"12344")
    path = dead_journal(tmp_path, to_line(first), altered, to_line(last))
    content = path.read_bytes()
    Shipper(tmp_path).ship()
    assert {str(id) for id in RequestLog.objects.values_list("pk", flat=True)} == {first.id, last.id}
    path.write_bytes(content)  # as a shipper that was killed before it deleted the segment leaves it
    Shipper(tmp_path).ship()
    assert RequestLog.objects.count() == 2
    assert read_state(tmp_path).damaged == 1
    assert b"12344" in (tmp_path / DAMAGE_FILE).read_bytes()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_row_that_no_column_takes_is_kept_aside(tmp_path):
    dead_journal(tmp_path, to_line(closed(input_tokens=2**63)), to_line(closed()))
    Shipper(tmp_path).ship()
    assert RequestLog.objects.count() == 1
    assert read_state(tmp_path).damaged == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_a_shipper_that_waited_for_another_goes_on_from_its_counts(tmp_path):
    """The old one still ships what a killed web process left when the new one starts."""
    old, new = Shipper(tmp_path), Shipper(tmp_path)
    dead_journal(tmp_path, to_line(opened()), to_line(closed())[:80])
    old.ship()
    dead_journal(tmp_path, to_line(opened()), to_line(opened()))
    told_to_end = threading.Event()
    told_to_end.set()
    new.run(told_to_end)
    state = read_state(tmp_path)
    assert (state.unknown, state.damaged) == (3, 1)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_unknown_calls_are_counted_once_whenever_their_shipper_dies(tmp_path):
    path = dead_journal(tmp_path, to_line(opened()), to_line(opened()))
    content, dying = path.read_bytes(), Shipper(tmp_path)
    dying._books.save = _once(dying._books.save)  # killed between its first save and its last
    dying.ship()
    assert read_state(tmp_path).unknown == 2
    path.write_bytes(content)  # or before it deleted the segment
    Shipper(tmp_path).ship()
    assert read_state(tmp_path).unknown == RequestLog.objects.filter(outcome="unknown").count() == 2


def _once(act):
    acts = [act]
    return lambda: acts.pop()() if acts else None


# A full disk


@pytest.fixture(params=["serve", "refuse"])
def when_full(request):
    return request.param


@pytest.fixture
def small_disk(tmp_path, when_full, upstream, transactional_db):
    make_target(route=make_route(name="gpt"), provider=make_provider(slug="p1", base_url=upstream.url("p1")))
    env = {"DATABASE_URL": f"sqlite:///{TEST_DATABASE}", "JOURNAL_WHEN_FULL": when_full}
    gateway = LiveGateway(tmp_path, env).start()
    yield gateway
    gateway.stop()


def chat(gateway, key):
    return plain.post(
        f"{gateway.url}/v1/chat/completions", content=ask("gpt"), headers={"authorization": f"Bearer {key}"}
    )


def limit_files(gateway, size):
    """As if the disk were full: no file of the web process may grow beyond."""
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (size if size else hard, hard))


def test_a_full_disk_is_told_and_costs_no_row(small_disk, when_full, upstream):
    _, key = make_key(name="app")
    until(lambda: chat(small_disk, key).status_code == 200, "the key is served")
    (segment,) = (small_disk.data_dir / "journal").glob("*.journal")
    limit_files(small_disk, segment.stat().st_size + 1000)  # in the middle of a record
    upstream.always("p1", Answer())
    before = len(upstream.calls("p1"))
    answers = [chat(small_disk, key) for _ in range(6)]
    books = small_disk.readiness()["journal"]
    assert books["problem"]
    assert books["records_waiting"] > 0
    statuses = [answer.status_code for answer in answers]
    if when_full == "serve":
        assert statuses == [200] * 6
    else:
        assert statuses[-1] == 503
        error = answers[-1].json()["error"]
        assert (error["code"], error["type"]) == ("journal_unavailable", "service_unavailable_error")
        assert answers[-1].headers["retry-after"] == "1"
    limit_files(small_disk, 0)
    until(lambda: not small_disk.readiness()["journal"]["records_waiting"], "the disk takes records again")
    assert chat(small_disk, key).status_code == 200
    wanted = {answer.headers["x-litellm-call-id"] for answer in answers}
    found = RequestLog.objects.filter(pk__in=wanted)
    until(lambda: found.count() == 6, lambda: f"{found.count()} of 6 rows")
    assert found.filter(outcome="answered").count() == statuses.count(200)
    assert len(upstream.calls("p1")) - before == statuses.count(200) + 1
    assert small_disk.readiness()["journal_records_lost"] == 0
    assert small_disk.readiness()["journal"]["records_damaged"] == 0
