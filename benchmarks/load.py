"""Sends load with wrk and reads its report."""

import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "chat.lua"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a chat completion is asked for, and what a whole answer has at least."""

    port: int
    path: str
    model: str
    stream: bool
    answer_bytes: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> str:
        question = {"role": "user", "content": "Which way does the next train go, and who decides it?"}
        ask = {"model": self.model, "messages": [question], "temperature": 0.2, "max_tokens": 64}
        return json.dumps(ask | ({"stream": True} if self.stream else {}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of wrk. Latencies run from the request to the last byte of its answer."""

    answers: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    bytes_each: float
    bad_status: int
    socket_errors: int
    timeouts: int

    def problem(self, target: Target) -> str | None:
        bad = {name: getattr(self, name) for name in ("bad_status", "socket_errors", "timeouts")}
        if any(bad.values()):
            counts = ", ".join(f"{name} {count}" for name, count in bad.items())
            return f"{counts} beside {self.answers} answers"
        if self.bytes_each < target.answer_bytes:
            return (
                f"answers of {self.bytes_each:.0f} bytes on average, at least {target.answer_bytes} expected"
            )
        return None


def send(target: Target, *, connections: int, seconds: int, core: int) -> Measured:
    """Keeps `connections` requests in flight for `seconds`."""
    url = f"http://127.0.0.1:{target.port}{target.path}"
    options = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--timeout=30s"]
    headers = "".join(f"{name}: {value}\n" for name, value in target.headers.items())
    output = subprocess.run(
        ["taskset", "--cpu-list", str(core), "wrk", *options, f"--script={SCRIPT}", url],
        env={**os.environ, "BENCH_BODY": target.body, "BENCH_HEADERS": headers},
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds + 60,
        check=True,
    ).stdout
    return Measured(**json.loads(output.rpartition("REPORT ")[2]))
