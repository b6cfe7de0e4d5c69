"""Times as sorted spans that don't touch: when something was down, or known."""

from collections.abc import Iterable
from datetime import datetime, timedelta

Span = tuple[datetime, datetime]
"""From, and until before."""


def merged(spans: Iterable[Span]) -> list[Span]:
    """What is in any of them."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        elif start < end:
            found.append((start, end))
    return found


def common(first: list[Span], second: list[Span]) -> list[Span]:
    """What is in both."""
    both = ((max(a[0], b[0]), min(a[1], b[1])) for a in first for b in second)
    return sorted((start, end) for start, end in both if start < end)


def length(spans: list[Span], within: Span) -> timedelta:
    return sum((end - start for start, end in common(spans, [within])), timedelta())
