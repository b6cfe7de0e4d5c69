"""Writes the table of docs/metrics.md from the metrics: `python -m monitoring.metrics.docs`."""

from pathlib import Path

from monitoring.metrics.catalogue import METRICS, Metric

PATH = Path(__file__).resolve().parent.parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- begin: made by python -m monitoring.metrics.docs -->", "<!-- end -->"


def table() -> str:
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *map(_row, METRICS)])


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.full_name}` | {metric.kind} | {labels} | {metric.help} |"


def updated(text: str) -> str:
    """The document with the table as the metrics are now. Raises ValueError where a marker is missing."""
    before, rest = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n{table()}\n{rest}"


if __name__ == "__main__":
    PATH.write_text(updated(PATH.read_text()))
