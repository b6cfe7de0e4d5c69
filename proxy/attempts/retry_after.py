"""How long a provider asks to be left alone."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 3600.0  # seconds; a provider that asks for more is treated as asking for this
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_KINDS = ("requests", "tokens")


def told_wait(header: Callable[[str], str | None]) -> float | None:
    """Seconds to wait, 0 to 3,600; None where no header says so.

    Azure's retry-after-ms counts first, being the more exact one; then Retry-After, then the time at which
    a used-up rate limit is reset.
    """
    wait = _milliseconds(header("retry-after-ms"))
    if wait is None:
        wait = retry_after_seconds(header("retry-after"))
    return _until_reset(header) if wait is None else wait


def _milliseconds(value: str | None) -> float | None:
    try:
        seconds = float(value or "") / 1000
    except ValueError:
        return None
    return min(seconds, LONGEST) if seconds >= 0 else None


def _until_reset(header: Callable[[str], str | None]) -> float | None:
    """OpenAI's x-ratelimit-reset-requests and -tokens. The longest of those that are used up.

    Where the headers don't say which one is, the shortest: the caller may be back too early, never too late.
    """
    waits = {kind: duration_seconds(header(f"x-ratelimit-reset-{kind}")) for kind in _KINDS}
    known = {kind: wait for kind, wait in waits.items() if wait is not None}
    used_up = [
        wait
        for kind, wait in known.items()
        if (header(f"x-ratelimit-remaining-{kind}") or "").strip() in ("0", "0.0")
    ]
    return max(used_up) if used_up else min(known.values(), default=None)


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds to wait, 0 to 3,600; None where there is no header that makes sense.

    Both forms are read: seconds and HTTP date; also 30s, and the first of several. Source: RFC 9110, 10.2.3.
    """
    if not value:
        return None
    seconds = _plain_seconds(value.partition(";")[0].partition(",")[0].strip(' "'))
    if seconds is None:
        seconds = _until(value)
    if not seconds >= 0:  # also not-a-number
        return None
    return min(seconds, LONGEST)


def _plain_seconds(text: str) -> float | None:
    if _DURATION.fullmatch(text):
        return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return float(text)
    except ValueError:
        return None


def duration_seconds(value: str | None) -> float | None:
    """1s, 6m0s, 20ms, 1h2m3.5s, or plain seconds; None for anything else."""
    return retry_after_seconds((value or "").strip().lower())


def _until(value: str) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a year or a zone of twenty digits
        return float("nan")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
