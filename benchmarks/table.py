"""Medians of the repeats, as a table for people and as JSON for programs."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.cells import PEERS, SHORT, SUBJECTS, Cell
from benchmarks.measuring import Run

WIDTH = 100
RATIOS = {"nginx": "of nginx"} | {peer: f"x {SHORT[peer]}" for peer in PEERS}


@dataclass(frozen=True, slots=True)
class Column:
    key: str
    heading: str
    format: str = ",.0f"

    def text(self, run: Run) -> str:
        value = run.get(self.key)
        return "-" if value is None else format(value, self.format)


CPU = Column("cpu", "CPU", ".0%")
LATENCY = [Column("p50_ms", "p50 ms", ".2f"), Column("p99_ms", "p99 ms", ".2f")]
TTFT = [Column("ttft_p50_ms", "TTFT p50", ".2f"), Column("ttft_p99_ms", "TTFT p99", ".2f")]
COLUMNS = {
    "json": [Column("rate", "answers/s"), *LATENCY, Column("over_ms", "+p50 ms", "+.2f"), CPU],
    "stream": [Column("rate", "streams/s", ",.1f"), Column("chunks", "chunks/s"), *TTFT, CPU],
    "ttft": [*TTFT, Column("over_ms", "+p50 ms", "+.2f"), *LATENCY, CPU],
    "whole": [Column("whole", "whole"), Column("not_whole", "not"), Column("chunks", "chunks/s"), CPU],
    "held": [
        Column("rate", "answers/s"),
        Column("of_ideal", "of ideal", ".1%"),
        Column("errors", "errors"),
        *LATENCY,
        CPU,
        Column("kb_each", "KB each", ".1f"),
    ],
    "body": [Column("rate", "answers/s", ",.1f"), Column("mb", "MB/s"), *LATENCY, CPU],
    "start": [Column("seconds", "seconds", ".2f")],
    "memory": [
        Column("idle_mb", "idle MB"),
        Column("mb", "now MB"),
        Column("largest_mb", "largest"),
        Column("processes", "of"),
    ],
}
OVER = {"json": "p50_ms", "ttft": "ttft_p50_ms"}  # of which the distance to direct is shown
LATE = (
    "TTFT: the driver has no right to real-time priority. Behind a proxy it waits for the provider,\n"
    "which shares its core, to have written the other chunks."
)
RATED = ("json", "stream", "body")  # kinds that have ratios


@dataclass(slots=True)
class Table:
    """Cells and subjects in their order; a failed one has no runs and a note."""

    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)  # by cell and subject
    cells: dict[str, Cell] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failed: set[tuple[str, str]] = field(default_factory=set)

    def add(self, cell: Cell, subject: str, run: Run) -> None:
        self.cells[cell.name] = cell
        self.runs.setdefault((cell.name, subject), []).append(run)

    def fail(self, cell: Cell, subject: str, note: str) -> None:
        self.cells[cell.name] = cell
        self.failed.add((cell.name, subject))
        self.notes.append(note)

    def median(self, cell: str, subject: str) -> Run:
        """With what is reckoned from other subjects' medians."""
        found = self._plain(cell, subject)
        kind = self.cells[cell].kind
        if kind in OVER and subject != "direct":
            found["over_ms"] = _less(found.get(OVER[kind]), self._plain(cell, "direct").get(OVER[kind]))
        if kind in RATED:
            for other, heading in RATIOS.items():
                found[heading] = _part(found.get("rate"), self._plain(cell, other).get("rate"))
        return found

    def _plain(self, cell: str, subject: str) -> Run:
        if (cell, subject) in self.failed:
            return {}
        runs = self.runs.get((cell, subject), [])
        keys = dict.fromkeys(key for run in runs for key in run)
        return {key: _median([run.get(key) for run in runs]) for key in keys}

    def subjects(self, cell: str) -> list[str]:
        return [name for name in SUBJECTS if (cell, name) in self.runs or (cell, name) in self.failed]

    def records(self) -> list[dict[str, object]]:
        """One per cell and subject; `runs` has the figures of each repeat."""
        return [
            {
                "cell": cell,
                "subject": subject,
                "connections": self.cells[cell].connections,
                "failed": (cell, subject) in self.failed,
                **{key: value and round(value, 4) for key, value in self.median(cell, subject).items()},
                "runs": self.runs.get((cell, subject), []),
            }
            for cell in self.cells
            for subject in self.subjects(cell)
        ]

    def text(self) -> str:
        blocks = ["\n".join(self._block(cell)) for cell in self.cells.values()]
        late = [LATE] if any(run.get("prompt") == 0 for runs in self.runs.values() for run in runs) else []
        return "\n\n".join([*blocks, *late, *self.notes])

    def _block(self, cell: Cell) -> Iterator[str]:
        subjects = self.subjects(cell.name)
        rows = {subject: self.median(cell.name, subject) for subject in subjects}
        columns = [*COLUMNS[cell.kind]]
        columns += [
            Column(heading, heading, ".2f")
            for other, heading in RATIOS.items()
            if cell.kind in RATED and other in subjects
        ]
        yield cell.title
        headings = ["", *(column.heading for column in columns)]
        texts = [[self._label(cell, name), *(one.text(run) for one in columns)] for name, run in rows.items()]
        yield from _aligned([headings, *texts])

    def _label(self, cell: Cell, subject: str) -> str:
        return SUBJECTS[subject] + (" FAILED" if (cell.name, subject) in self.failed else "")


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    """Two blanks between columns; one where it would be too wide."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    gap = 2 if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else 1
    for label, *texts in rows:
        cells = [text.rjust(width + gap) for text, width in zip(texts, widths[1:], strict=True)]
        yield f"{label.ljust(widths[0])}{''.join(cells)}".rstrip()


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _part(value: float | None, other: float | None) -> float | None:
    return None if value is None or not other else value / other
