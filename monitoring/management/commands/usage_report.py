"""Usage as a table, JSON or CSV."""

import csv
import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from monitoring.usage import report as usage
from monitoring.usage import rollups
from monitoring.usage.csv_cells import safe
from monitoring.usage.forecast import Forecast, forecasts

SHOWN = ("group", "requests", "error_rate", "input_tokens", "output_tokens", "cost_usd", "total_ms_p95")


class Command(BaseCommand):
    help = "What was used and what it cost, by team, key, route, provider, model, tag or time."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--group-by", default="team", help=f"One of {', '.join(usage.GROUPS)}.")
        parser.add_argument(
            "--from", help="First day, like 2026-01-01 (UTC); without: 29 days before the last."
        )
        parser.add_argument("--to", help="Last day, included; without: today.")
        parser.add_argument("--format", choices=("table", "json", "csv"), default="table")
        for name in usage.FILTERS:
            parser.add_argument(f"--{name}", help=f"Only of this {name}.")

    def handle(self, *args: Any, **options: Any) -> None:
        given = {name: options[name] for name in ("group_by", "from", "to", *usage.FILTERS) if options[name]}
        try:
            asked = usage.question(given, today=timezone.now().date())
        except usage.QuestionInvalid as error:
            raise CommandError(str(error)) from error
        rollups.roll_up()
        lines = [line.shown() for line in usage.report(asked)]
        if options["format"] == "json":
            self.stdout.write(json.dumps(lines, indent=2))
        elif options["format"] == "csv":
            writer = csv.DictWriter(self.stdout, usage.COLUMNS)
            writer.writeheader()
            writer.writerows(map(safe, lines))
        else:
            self._table(_report_rows([*lines, usage.total(asked).shown()]))
            if asked.group_by == "team" and (found := list(forecasts())):
                self.stdout.write("\nThis month by team, in USD:")
                self._table(_forecast_rows(found))

    def _table(self, rows: list[list[str]]) -> None:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            first, *others = zip(row, widths, strict=True)
            self.stdout.write("  ".join([first[0].ljust(first[1]), *(text.rjust(n) for text, n in others)]))


def _report_rows(lines: list[dict[str, Any]]) -> list[list[str]]:
    return [list(SHOWN), *([_cell(line[name]) for name in SHOWN] for line in lines)]


def _forecast_rows(found: list[Forecast]) -> list[list[str]]:
    rows = [
        [
            one.team,
            f"{one.spent:.4f}",
            f"{one.expected:.4f}",
            "-" if one.budget is None else f"{one.budget:.2f}",
            _remark(one),
        ]
        for one in found
    ]
    return [["team", "spent", "expected", "budget", ""], *rows]


def _remark(one: Forecast) -> str:
    remarks = {"over budget": one.exceeds, "unknown time zone, UTC instead": one.wrong_clock}
    return "; ".join(remark for remark, holds in remarks.items() if holds)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
