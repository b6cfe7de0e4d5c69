"""When a budget's period begins and ends, by its own clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from routing.table import Budget


class Periods:
    """Remembers the running period of each clock: most calls need one comparison."""

    __slots__ = ("_running",)

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], tuple[float, float]] = {}

    def of(self, budget: Budget, at: float) -> tuple[float | None, float | None]:
        """(start, end) in Unix seconds, the end excluded; (None, None) for a budget that never resets."""
        if budget.period == "total":
            return None, None
        clock = (budget.period, budget.time_zone)
        running = self._running.get(clock)
        if running is None or not running[0] <= at < running[1]:
            running = self._running[clock] = bounds(budget.period, budget.time_zone, at)
        return running


def bounds(period: str, time_zone: str, at: float) -> tuple[float, float]:
    """The day, week (from Monday) or calendar month of a time zone that `at` is in."""
    zone = ZoneInfo(time_zone)
    local = datetime.fromtimestamp(at, zone)
    first = datetime(local.year, local.month, local.day)
    if period == "week":
        first -= timedelta(days=local.weekday())
    if period == "month":
        first = first.replace(day=1)
    return _moment(first, zone), _moment(_next(first, period), zone)


def _next(first: datetime, period: str) -> datetime:
    if period == "month":
        return (first + timedelta(days=32)).replace(day=1)
    return first + timedelta(days=7 if period == "week" else 1)


def _moment(local_midnight: datetime, zone: ZoneInfo) -> float:
    # By way of UTC: where clocks skip midnight, the day begins at the first moment there is.
    return local_midnight.replace(tzinfo=zone).astimezone(UTC).timestamp()


def period_id(start: float | None) -> str:
    return "total" if start is None else str(int(start))
