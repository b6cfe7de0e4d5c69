"""Threads beside the event loop: they repeat, say once what is wrong, and end when they are stopped."""

import logging
import threading

import pytest

from proxy.background import Repeating, replace_file
from proxy.gateway import current_gateway, running_gateway, stop_gateway
from tests.live import until


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_it_repeats_until_it_is_stopped_and_ends_once():
    rounds: list[str] = []
    Repeating("never started", 0.001, lambda: rounds.append("wrong"), trouble="").stop()
    repeating = Repeating(
        "repeats", 0.001, lambda: rounds.append("round"), trouble="", at_end=lambda: rounds.append("end")
    )
    repeating.start()
    until(lambda: len(rounds) > 3, "it repeats")
    repeating.stop()
    repeating.stop()
    assert rounds.count("end") == 1
    assert rounds[-1] == "end"
    assert "repeats" not in threads()


def test_what_goes_wrong_is_said_once_until_it_works_again(caplog):
    outcomes = iter([OSError("full"), OSError("full"), None, OSError("full again")])
    done = threading.Event()

    def work() -> None:
        outcome = next(outcomes, done)
        if outcome is done:
            done.set()
        elif outcome is not None:
            raise outcome

    repeating = Repeating("fails", 0.001, work, trouble="nothing is posted")
    with caplog.at_level(logging.ERROR, "proxy.background"):
        repeating.start()
        assert done.wait(10)
        repeating.stop()
    assert caplog.messages == [
        "nothing is posted: OSError: full",
        "nothing is posted: OSError: full again",
    ]
    assert repeating.problem == ""


def test_a_replaced_file_is_never_seen_half(tmp_path):
    path = tmp_path / "counts.json"
    replace_file(path, b"one")
    replace_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No such file"):
        replace_file(tmp_path / "gone" / "counts.json", b"three")


@pytest.mark.django_db(transaction=True)
def test_a_gateway_that_is_forgotten_leaves_no_thread(settings, tmp_path):
    """They would go on in a directory that is removed, and log into a stream that is closed."""
    settings.JOURNAL_DIR, settings.DATA_DIR = tmp_path / "journal", tmp_path
    settings.LIMITS_FILE, settings.REDIS_URL = tmp_path / "limits.json", ""
    stop_gateway()
    before = threads()
    running_gateway()
    names = {"routing-table", "target-sharing", "metrics", "limits-file"}
    assert names <= set(threads())
    stop_gateway()
    assert current_gateway() is None
    assert not names & (set(threads()) - set(before))
