"""A report as a file on disk: whatever its length, little of it is in memory at once."""

import csv
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from django.template.loader import render_to_string

from monitoring.alerts.message import File
from monitoring.reports.models import ReportDelivery, ScheduledReport
from monitoring.usage import report as usage
from monitoring.usage import rollups
from monitoring.usage.csv_cells import safe
from monitoring.usage.forecast import forecasts
from monitoring.usage.request_export import COLUMNS, request_chunks

HTML_COLUMNS = ("group", "requests", "errors", "input_tokens", "output_tokens", "cost_usd", "total_ms_p95")


@contextmanager
def made(delivery: ReportDelivery) -> Iterator[File]:
    report = delivery.report
    rollups.roll_up()
    where = {"team": report.team} if report.team else {}
    grouping = report.group_by if report.group_by != ScheduledReport.Grouping.REQUEST else "day"
    asked = usage.Question(grouping, delivery.first, delivery.last, where)
    title = f"{report.name}: {asked.first} to {asked.last}"
    form = report.format
    with tempfile.TemporaryFile("w+b") as file:
        if form == ScheduledReport.Format.HTML:
            file.write(_html(asked, title).encode())
        elif report.group_by == ScheduledReport.Grouping.REQUEST:
            _write_requests(asked, file)
        else:
            _write_lines(asked, file)
        file.seek(0)
        name = f"usage-{asked.first}-{asked.last}.{form}"
        yield File(f"report-{delivery.pk}", title, name, f"text/{form}; charset=utf-8", file)


class _Encoded:
    """What a csv writer writes to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode())


def _write_lines(asked: usage.Question, file: IO[bytes]) -> None:
    writer = csv.DictWriter(_Encoded(file), usage.COLUMNS)
    writer.writeheader()
    writer.writerows(safe(line.shown()) for line in usage.report(asked))


def _write_requests(asked: usage.Question, file: IO[bytes]) -> None:
    writer = csv.DictWriter(_Encoded(file), COLUMNS)
    writer.writeheader()
    for chunk in request_chunks(asked):
        writer.writerows(chunk)


def _html(asked: usage.Question, title: str) -> str:
    lines = [line.shown() for line in (*usage.report(asked), usage.total(asked))]
    rows: list[list[Any]] = [[line[name] for name in HTML_COLUMNS] for line in lines]
    teams = [one for one in forecasts() if asked.where.get("team", one.team) == one.team]
    facts = {"title": title, "columns": HTML_COLUMNS, "rows": rows, "teams": teams}
    return render_to_string("monitoring/report.html", facts)
