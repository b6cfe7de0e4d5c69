"""The Retry-After header."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 3600.0  # seconds; a provider that asks for more is treated as asking for this


def retry_after_seconds(value: str | None) -> float | None:
    """Seconds to wait, 0 to 3,600; None where there is no header that makes sense.

    Both forms are read: seconds and HTTP date. Source: RFC 9110, 10.2.3.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = _until(value)
    if not seconds >= 0:  # also not-a-number
        return None
    return min(seconds, LONGEST)


def _until(value: str) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return float("nan")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
