"""What is kept with a routing table: bounded, and gone with it."""

from dataclasses import replace

from routing.table import EMPTY_TABLE
from routing.table_cache import TableCache

FIRST, SECOND = replace(EMPTY_TABLE, version=1), replace(EMPTY_TABLE, version=2)


def cache(entries: int = 3, size: int = 100) -> TableCache[str]:
    return TableCache(entries, size)


def test_what_was_kept_is_found_until_the_table_changes():
    kept = cache()
    assert kept.get(FIRST, "a") is None
    assert kept.put(FIRST, "a", "one", 1) == "one"
    assert kept.get(FIRST, "a") == "one"
    assert kept.get(SECOND, "a") is None
    kept.put(SECOND, "b", "two", 1)
    assert kept.get(FIRST, "a") is None
    assert kept.get(SECOND, "a") is None


def test_a_table_of_the_same_version_is_another_one():
    """A maintenance window that begins makes one."""
    kept = cache()
    kept.put(FIRST, "a", "one", 1)
    assert kept.get(replace(FIRST), "a") is None
    kept.put(replace(FIRST), "b", "two", 1)
    assert kept.get(FIRST, "a") is None


def test_calls_of_an_older_table_do_not_clear_what_those_of_the_newer_one_need():
    kept = cache()
    kept.put(SECOND, "a", "new", 1)
    assert kept.put(FIRST, "a", "old", 1) == "old"
    assert (kept.get(FIRST, "a"), kept.get(SECOND, "a")) == (None, "new")


def test_entries_and_bytes_are_bounded():
    kept = cache(entries=3, size=100)
    for number in range(4):
        kept.put(FIRST, number, "", 1)
    assert [kept.get(FIRST, number) for number in range(4)] == [None, None, None, ""]
    kept.put(FIRST, "large", "", 90)
    kept.put(FIRST, "more", "", 10)
    assert (kept.get(FIRST, "large"), kept.get(FIRST, "more")) == (None, "")
