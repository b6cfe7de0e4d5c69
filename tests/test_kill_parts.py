"""The short form of `python -m benchmarks.kill_parts`: each part is killed once under load."""

from pathlib import Path

from benchmarks.kill_parts import PARTS, busy_loops, run


def test_books_and_streams_survive_a_kill_of_each_part_and_each_restart_is_said_once(tmp_path: Path) -> None:
    with busy_loops(1):
        result = run(tmp_path, kills=len(PARTS), pause=4, rate=10)
    print("\n".join(result.lines()))
    assert result.problems == []
    assert [kill.part for kill in result.kills] == [*PARTS]
    assert result.answered > 0
    assert result.streams > 0
