"""What is measured: each cell is one load; benchmarks/measuring.py says how a kind of cell is measured."""

from dataclasses import dataclass

from benchmarks.answers import SCENARIOS, Scenario

DIRECT, NGINX, PEERS = ("direct",), ("nginx",), ("sglang", "portkey", "litellm")
SUBJECTS = {
    "direct": "direct",
    "nginx": "nginx reverse proxy",
    "fast": "Switchstand",  # its fast lane
    "drf": "- through Django",
    "limits": "- with limits",
    "redis": "- limits in Redis",
    "sglang": "sglang-router",
    "portkey": "Portkey gateway",
    "litellm": "LiteLLM proxy",
}
SHORT = {"sglang": "sglang", "portkey": "Portkey", "litellm": "LiteLLM", "nginx": "nginx"}
PLAIN = ("direct", "nginx", "fast", *PEERS)
BASIC = ("direct", "nginx", "fast", "limits", *PEERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`most_repeats` bounds the repeats of a cell that varies little, or takes long."""

    name: str
    title: str
    kind: str
    scenario: str = "json"
    connections: int = 1
    subjects: tuple[str, ...] = BASIC
    most_repeats: int = 1_000

    @property
    def load(self) -> Scenario:
        return SCENARIOS[self.scenario]


def _json(connections: int, subjects: tuple[str, ...]) -> Cell:
    many = "connection" if connections == 1 else "connections"
    return Cell(
        name=f"json-{connections}",
        title=f"JSON, {connections} {many}",
        kind="json",
        connections=connections,
        subjects=subjects,
    )


def _stream(name: str, title: str, scenario: str, subjects: tuple[str, ...]) -> Cell:
    return Cell(
        name=name,
        title=title,
        kind="stream",
        scenario=scenario,
        connections=32,
        subjects=subjects,
    )


def _held(connections: int) -> Cell:
    return Cell(
        name=f"held-{connections}",
        title=f"{connections:,} connections held by a provider that takes 1 s",
        kind="held",
        scenario="slow",
        connections=connections,
        most_repeats=1,
    )


def _body(name: str, size: str, connections: int) -> Cell:
    return Cell(
        name=f"body-{name}",
        title=f"JSON of {size} there and back, {connections} connections",
        kind="body",
        scenario=name,
        connections=connections,
        subjects=PLAIN,
    )


# Memory for connections comes before the cells that fill it otherwise.
CELLS = {
    cell.name: cell
    for cell in (
        Cell(name="start", title="Start to first answer", kind="start", subjects=("nginx", "fast", *PEERS)),
        _held(1000),
        _held(5000),
        _json(1, (*BASIC, "drf")),
        _json(32, PLAIN),
        _json(64, (*BASIC, "drf", "redis")),
        _json(256, BASIC),
        _stream("stream-32", "Streams of 32 chunks, 32 connections", "s32", (*BASIC, "drf", "redis")),
        _stream("stream-at-once", "The same, all chunks in one write of the provider", "s32-at-once", BASIC),
        _stream("stream-512", "Streams of 512 chunks, 32 connections", "s512", PLAIN),
        Cell(
            name="ttft",
            title="Streams of 32 chunks, 1 connection",
            kind="ttft",
            scenario="s32",
            subjects=(*BASIC, "drf"),
        ),
        Cell(
            name="whole",
            title="512 streams of 512 chunks at a time",
            kind="whole",
            scenario="s512",
            connections=512,
            most_repeats=1,
        ),
        _body("100k", "100 KB", 8),
        _body("5m", "5 MB", 2),
        Cell(
            name="memory",
            title="Memory of all processes",
            kind="memory",
            subjects=("nginx", "fast", "limits", "redis", *PEERS),
        ),
    )
}
GROUPS = sorted({name.partition("-")[0] for name in CELLS})


def chosen(names: list[str]) -> list[Cell]:
    """By name, or by the part before the hyphen: `json` is all of JSON's. None named: all."""
    return [
        cell for cell in CELLS.values() if not names or {cell.name, cell.name.partition("-")[0]} & {*names}
    ]
