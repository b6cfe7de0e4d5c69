"""Writes the table of docs/errors.md from the classes: `python -m proxy.docs`."""

from pathlib import Path

from proxy.errors import GatewayError, UpstreamRejected

PATH = Path(__file__).resolve().parent.parent / "docs" / "errors.md"
BEGIN, END = "<!-- begin: made by python -m proxy.docs -->", "<!-- end -->"


def error_classes() -> list[type[GatewayError]]:
    """Every class that a client can see, by status."""
    return sorted(_tree(GatewayError), key=lambda error: (error.status, error.code))


def _tree(error: type[GatewayError]) -> list[type[GatewayError]]:
    found = [error]
    for child in error.__subclasses__():
        found += _tree(child)
    return found


def table() -> str:
    head = ["| status | type | code | gateway_code | cause |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(error) for error in error_classes())])


def _row(error: type[GatewayError]) -> str:
    status = f"{error.status} and other 4xx" if error is UpstreamRejected else str(error.status)
    cells = (status, f"`{error.type}`", f"`{error.code}`", f"`{error.gateway_code}`", error.cause)
    return f"| {' | '.join(cells)} |"


def updated(text: str) -> str:
    """The document with the table as the classes are now. Raises ValueError where a marker is missing."""
    before, rest = text[: text.index(BEGIN)], text[text.index(END) :]
    return f"{before}{BEGIN}\n{table()}\n{rest}"


if __name__ == "__main__":
    PATH.write_text(updated(PATH.read_text()))
