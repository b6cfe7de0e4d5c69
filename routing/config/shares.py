"""Limits of several providers together. Each of them gets an equal part, which together is never more."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any

from routing.config import values
from routing.config.budget_periods import read_budget
from routing.config.plan import PlannedRow
from routing.config.report import Notes
from routing.config.section import Section
from routing.config.values import ABSENT

_PERIODS = ("day", "week", "month", "total")  # the later, the stricter
_SMALLEST = Decimal("0.000000001")
_REMEDY = "give keys, teams or providers limits of their own, and take it out"


@dataclass(frozen=True, slots=True)
class Share:
    path: str
    provider: str  # the prefix of its providers; "" for all of the file
    limits: PlannedRow


def read_shares(section: Section) -> list[Share]:
    found = []
    whole = PlannedRow(section.path)
    read_budget(whole, section, "max_budget", "budget_duration")
    whole.take("parallel", section, "global_max_parallel_requests", values.decimal)
    if whole.values or whole.bad:
        place = whole.at("budget_usd") if "budget_usd" in whole.paths else whole.at("parallel")
        found.append(Share(place, "", whole))
    if section.raw("provider_budget_config") is not ABSENT:
        config = section.section("provider_budget_config")
        found += [_of_provider(config.section(name), name) for name in config.names()]
    return found


def _of_provider(section: Section, name: str) -> Share:
    row = PlannedRow(section.path)
    amount = "max_budget" if section.raw("budget_limit") is ABSENT else "budget_limit"
    duration = "budget_duration" if section.raw("time_period") is ABSENT else "time_period"
    read_budget(row, section, amount, duration)
    section.finish()
    return Share(section.path, name, row)


def share_out(
    shares: list[Share], rows: Mapping[str, PlannedRow], wanted: Mapping[str, str], notes: Notes
) -> None:
    for share in shares:
        theirs = {
            slug: row for slug, row in rows.items() if share.provider in ("", slug, wanted.get(slug, ""))
        }
        if not theirs:
            notes.say(share.path, "no effect: the file has no provider of this name", "correct the name")
        elif len(theirs) > 1 or not share.provider:
            notes.say(
                share.path,
                f"a limit of several providers together: each of the file's {len(theirs)} gets an equal part",
                _REMEDY,
            )
        for row in theirs.values():
            _tighten(row, share.limits, len(theirs))


def _tighten(row: PlannedRow, limits: PlannedRow, parts: int) -> None:
    for name, bad in limits.bad.items():
        row.bad[name] = bad
        row.paths[name] = limits.paths[name]
    if "parallel" in limits.values:
        _smaller(row, "parallel", limits.values["parallel"] // parts, limits)
    if "budget_usd" in limits.values:
        part = (limits.values["budget_usd"] / parts).quantize(_SMALLEST, rounding=ROUND_DOWN)
        _smaller(row, "budget_usd", part, limits)
    if "budget_usd" in limits.values:
        both = [found["budget_period"] for found in (row.values, limits.values) if "budget_period" in found]
        row.say("budget_period", max(both, key=_PERIODS.index), limits.at("budget_period"))


def _smaller(row: PlannedRow, name: str, part: Any, limits: PlannedRow) -> None:
    there = row.values.get(name)
    if name not in row.bad and (there is None or part < there):
        row.say(name, part, limits.at(name))
