"""Compares the books with each other: journal, rows, seals, usage by the hour, limits' counters."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    book: str  # journal, rows, usage, budgets
    what: str


Differences = Iterator[Difference]
