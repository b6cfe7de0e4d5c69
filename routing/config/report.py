"""What a load says: problems, warnings and changes. None of them ever holds a credential."""

from collections.abc import Iterable
from dataclasses import dataclass, field


class ConfigInvalid(Exception):
    """The file can't be loaded; `problems` are all of them, each with its place in the file."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(slots=True)
class Notes:
    """Collects what is found while a file is read and loaded."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, path: str, text: str) -> None:
        self.problems.append(f"{path}: {text}")

    def warn(self, path: str, text: str) -> None:
        self.warnings.append(f"{path}: {text}")

    def raise_problems(self) -> None:
        if self.problems:
            raise ConfigInvalid(self.problems)


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
    warnings: tuple[str, ...]
    dry_run: bool

    def lines(self) -> list[str]:
        """One line per warning and per changed row, and a summary."""
        would = "would be " if self.dry_run else ""
        return [
            *(f"warning: {warning}" for warning in self.warnings),
            *(f"{would}{change}" for change in self.changes),
            self._summary(),
        ]

    def _summary(self) -> str:
        if not self.changes:
            return f"nothing to change ({self.unchanged} unchanged)"
        counts = [
            f"{sum(change.action == action for change in self.changes)} {action}"
            for action in ("created", "changed", "disabled", "deleted")
            if any(change.action == action for change in self.changes)
        ]
        end = "; dry run, nothing was written" if self.dry_run else ""
        return f"{', '.join(counts)}, {self.unchanged} unchanged{end}"
