"""Medians of the repeats, as a table for people and as lines of JSON for programs."""

import statistics
from dataclasses import asdict, dataclass

from benchmarks.load import Measured
from benchmarks.rig import KINDS, SUBJECTS

HEADINGS = {"json": ("JSON/s", "p50 ms", "p99 ms"), "stream": ("streams/s", "p50 ms", "p99 ms")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One load on one subject. CPU is the proxy's share of its core, None where there is no proxy."""

    measured: Measured
    cpu: float | None
    settle_cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One subject under one kind of load; every number is the median over the runs."""

    subject: str
    kind: str
    connections: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu: float | None
    settle_cpu_seconds: float
    all_rps: tuple[float, ...]

    @classmethod
    def of(cls, subject: str, kind: str, connections: int, runs: list[Run]) -> "Cell":
        shares = [run.cpu for run in runs if run.cpu is not None]
        return cls(
            subject=subject,
            kind=kind,
            connections=connections,
            rps=round(statistics.median(run.measured.rps for run in runs), 1),
            p50_ms=round(statistics.median(run.measured.p50_ms for run in runs), 3),
            p99_ms=round(statistics.median(run.measured.p99_ms for run in runs), 3),
            cpu=round(statistics.median(shares), 2) if shares else None,
            settle_cpu_seconds=round(statistics.median(run.settle_cpu_seconds for run in runs), 2),
            all_rps=tuple(run.measured.rps for run in runs),
        )


class Table:
    def __init__(self, cells: list[Cell]):
        self.cells = {(cell.subject, cell.kind): cell for cell in cells}

    def of_nginx(self, cell: Cell) -> float | None:
        nginx = self.cells.get(("nginx", cell.kind))
        return round(cell.rps / nginx.rps, 3) if nginx else None

    def records(self) -> list[dict[str, object]]:
        return [{**asdict(cell), "of_nginx": self.of_nginx(cell)} for cell in self.cells.values()]

    def text(self) -> str:
        kinds = [kind for kind in KINDS if any(key[1] == kind for key in self.cells)]
        subjects = [name for name in SUBJECTS if any(key[0] == name for key in self.cells)]
        headings = [heading for kind in kinds for heading in (*HEADINGS[kind], "CPU", "of nginx")]
        rows = [["", *headings]]
        for name in subjects:
            columns = [self._columns(self.cells[name, kind]) for kind in kinds]
            rows.append([SUBJECTS[name], *(text for part in columns for text in part)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return "\n".join(_aligned(row, widths) for row in rows)

    def _columns(self, cell: Cell) -> tuple[str, ...]:
        ratio = self.of_nginx(cell)
        return (
            f"{cell.rps:,.0f}",
            f"{cell.p50_ms:.2f}",
            f"{cell.p99_ms:.2f}",
            "-" if cell.cpu is None else f"{cell.cpu:.0%}",
            "-" if ratio is None else f"{ratio:.2f}",
        )


def _aligned(row: list[str], widths: list[int]) -> str:
    first, *others = (
        text.ljust(width) if not column else text.rjust(width)
        for column, (text, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others])
