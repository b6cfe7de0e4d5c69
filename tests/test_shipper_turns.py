"""The shipper works in turns: no worker waits for another one's flood, and a busy machine gets rests."""

from types import SimpleNamespace

import pytest

from monitoring.models import RequestLog
from monitoring.shipping import pacing
from monitoring.shipping.shipper import Shipper
from monitoring.shipping.state import read_state
from proxy.journal.reader import READ_BYTES
from proxy.journal.writer import JournalWriter
from tests.test_journal_faults import closed


@pytest.fixture
def writers(tmp_path, monkeypatch):
    """Of two web processes that live."""
    monkeypatch.setattr("proxy.journal.writer.SEGMENT_BYTES", READ_BYTES + READ_BYTES // 2)
    found = [JournalWriter(tmp_path), JournalWriter(tmp_path)]
    yield found
    for writer in found:
        writer.close()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("own_log")
def test_workers_take_turns_and_nothing_is_lost_where_time_is_short(tmp_path, writers):
    calls = 2000 * len(writers)
    for _ in range(calls // len(writers)):
        for writer in writers:
            assert writer.write(closed(client_info="x" * 900))
    files = sorted(path.name for path in tmp_path.glob("*.journal"))
    assert len(files) == 4, "each has a full segment and one that is written to"
    shipper, turns, served = Shipper(tmp_path), 1, []
    before = {}
    while shipper.ship(0):
        turns += 1
        now = read_state(tmp_path).offsets
        served.append({name.split(".")[0] for name in now if now[name] > before.get(name, 0)})
        before = now
        assert turns < 20
    assert served[0] != served[1], "the second turn is the other worker's"
    assert all(len(workers) == 1 for workers in served)
    assert RequestLog.objects.count() == calls
    left = sorted(path.name for path in tmp_path.glob("*.journal"))
    assert left == [name for name in files if name.endswith(".00000001.journal")]


@pytest.mark.parametrize(("waited", "rest"), [(1.95, pacing.LONGEST_REST), (1.0, 0.0), (0.0, 0.0)])
def test_a_turn_that_got_no_processor_is_followed_by_a_rest(monkeypatch, waited, rest):
    pace = _turn_of(monkeypatch, lasts=2.0, waited=waited)
    assert pace.rest() == rest


def test_a_short_turn_rests_shortly(monkeypatch):
    assert _turn_of(monkeypatch, lasts=0.1, waited=0.099).rest() == pytest.approx(0.4)


def _turn_of(monkeypatch, *, lasts, waited):
    clock, waits = iter([10.0, 10.0 + lasts]), iter([3.0, 3.0 + waited])
    monkeypatch.setattr(pacing, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(pacing, "_waited_seconds", lambda: next(waits))
    return pacing.Pace()


def test_waiting_for_a_processor_is_measured_where_the_system_tells():
    assert pacing._waited_seconds() >= 0.0
