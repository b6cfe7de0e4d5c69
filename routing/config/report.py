"""What a load says: reports and changes. None of them ever holds a credential."""

from collections.abc import Iterable
from dataclasses import dataclass, field

SHOWN_PLACES = 3  # of those that share one reason


class ConfigInvalid(Exception):
    """The file can't be read at all; `problems` say why, each with its place in the file."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Report:
    """Something that does not take effect as it stands: where, why, and what to do about it."""

    place: str
    reason: str
    remedy: str
    subject: str = ""  # the key that it is about, where others with the same reason are other news

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}. To do: {self.remedy}"


@dataclass(slots=True)
class Notes:
    """Collects what is found while a file is read and loaded."""

    reports: dict[Report, None] = field(default_factory=dict)  # in their order, each once
    moved: dict[str, str] = field(default_factory=dict)  # where a key is read -> where it stands

    def say(self, place: str, reason: str, remedy: str, subject: str = "") -> None:
        self.reports[Report(self._where(place), reason, remedy, subject)] = None

    def _where(self, place: str) -> str:
        for read_at, stands_at in self.moved.items():
            if place == read_at or place.startswith((f"{read_at}.", f"{read_at}[")):
                return stands_at + place.removeprefix(read_at)
        return place

    def folded(self) -> tuple[Report, ...]:
        """One for each reason: the same for many entries is said once, with a count."""
        places: dict[tuple[str, str, str], list[str]] = {}
        for report in self.reports:
            said = report.reason, report.remedy, report.subject
            places.setdefault(said, []).append(report.place)
        return tuple(Report(_together(found), *said) for said, found in places.items())


def _together(places: list[str]) -> str:
    if len(places) <= SHOWN_PLACES:
        return ", ".join(places)
    shown = ", ".join(places[: SHOWN_PLACES - 1])
    return f"{shown} and {len(places) - SHOWN_PLACES + 1} more ({len(places)} in all)"


@dataclass(frozen=True, slots=True)
class Change:
    """One row written; `fields` are the names of what changed, never the values."""

    action: str  # created, changed, deleted or disabled
    what: str
    fields: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.action} {self.what}" + (f": {', '.join(self.fields)}" if self.fields else "")


@dataclass(frozen=True, slots=True)
class LoadReport:
    changes: tuple[Change, ...]
    unchanged: int
    reports: tuple[Report, ...]
    dry_run: bool
    refused: bool = False  # by --strict: there are reports
    complete: bool = False  # the file says all that there is, be it nothing
    version: int = 0  # of the configuration that this was found out from

    @property
    def loaded(self) -> bool:
        """Whether the file asked for anything that could be taken."""
        return not self.refused and bool(self.changes or self.unchanged or self.complete)

    def lines(self) -> list[str]:
        """One line per report and per changed row, and a summary that counts the reports."""
        would = "would be " if self.dry_run or self.refused else ""
        return [
            *(f"report: {report}" for report in self.reports),
            *(f"{would}{change}" for change in self.changes),
            f"{self._summary()}; {_count(len(self.reports), 'report')}",
        ]

    def _summary(self) -> str:
        if self.refused:
            return "nothing was loaded, because of --strict"
        if not self.changes:
            return f"nothing to change ({self.unchanged} unchanged)" if self.loaded else "nothing was loaded"
        counts = [
            f"{sum(change.action == action for change in self.changes)} {action}"
            for action in ("created", "changed", "disabled", "deleted")
            if any(change.action == action for change in self.changes)
        ]
        end = "; dry run, nothing was written" if self.dry_run else ""
        return f"{', '.join(counts)}, {self.unchanged} unchanged{end}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
