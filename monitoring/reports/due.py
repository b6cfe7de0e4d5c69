"""Which reports are due: each period that has ended gives one delivery per channel, whoever looks, once."""

from datetime import UTC, date, datetime, time, timedelta

from monitoring.reports.models import ReportDelivery, ScheduledReport

DAY = timedelta(days=1)


def last_period(period: str, today: date) -> tuple[date, date]:
    """(first day, last day) of the newest one that has ended."""
    match period:
        case "day":
            return today - DAY, today - DAY
        case "week":
            monday = today - timedelta(days=today.weekday())
            return monday - timedelta(days=7), monday - DAY
        case _:
            last = today.replace(day=1) - DAY
            return last.replace(day=1), last


def enqueue(now: datetime) -> int:
    """How many deliveries are new. Of periods that were missed only the newest is sent."""
    return sum(_enqueue(report, now) for report in ScheduledReport.objects.filter(enabled=True))


def _enqueue(report: ScheduledReport, now: datetime) -> int:
    first, last = last_period(report.period, now.astimezone(UTC).date())
    ended = datetime.combine(last + DAY, time(), UTC)
    if now < ended + timedelta(hours=report.hour) or ended <= report.created_at:
        return 0
    new = 0
    for channel in report.channels.for_reports().filter(enabled=True):
        _, is_new = ReportDelivery.objects.get_or_create(
            report=report,
            channel=channel,
            first=first,
            last=last,
            by_hand=False,
            defaults={"created_at": now, "next_try_at": now},
        )
        new += is_new
    return new
