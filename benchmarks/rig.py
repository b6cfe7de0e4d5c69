"""Builds what is compared: the fake providers, nginx and Switchstand, each on its core."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks import answers, gateway
from benchmarks.load import Target
from benchmarks.servers import Server, Servers, filled, free_ports, python

CHAT = "/v1/chat/completions"
MODEL, STREAM_MODEL = "gpt-4o-mini", "gpt-4o-mini-stream"
KINDS = ("json", "stream")
SUBJECTS = {
    "direct": "direct",
    "nginx": "nginx, plain reverse proxy",
    "fast": "Switchstand, fast lane",
    "drf": "Switchstand, DRF door",
    "limits": "fast lane, limits and a strategy",
    "redis": "the same, counted in Redis",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One row of the table. `server` is the proxy whose CPU is read; direct has none."""

    name: str
    server: Server | None
    targets: dict[str, Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """`core` is the proxies' own; the fake providers and the load generator share `load_core`."""

    servers: Servers
    scratch: Path
    core: int
    load_core: int

    def build(self, wanted: list[str]) -> list[Subject]:
        """Starts the providers and what the wanted subjects need; returns when all of it answers."""
        names = ["JSON_PORT", "STREAM_PORT", "NGINX_PORT", "GATEWAY_PORT"]
        names += ["LIMITS_PORT", "REDIS_PORT", "SHARED_PORT"]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        words = {"SCRATCH": self.scratch, "ANSWER": answers.whole(), **ports}
        direct = self._direct(words, ports)
        subjects = [direct]
        if "nginx" in wanted:
            subjects.append(self._nginx(words, ports["NGINX_PORT"]))
        if {"fast", "drf"} & set(wanted):
            subjects += self._switchstand(words, ports["GATEWAY_PORT"])
        if "limits" in wanted:
            subjects.append(self._limited("limits", words, ports["LIMITS_PORT"], ""))
        if "redis" in wanted and redis_program():
            url = self._redis(ports["REDIS_PORT"])
            subjects.append(self._limited("redis", words, ports["SHARED_PORT"], url))
        return [subject for subject in subjects if subject.name in wanted]

    def _direct(self, words: dict[str, object], ports: dict[str, int]) -> Subject:
        targets = {
            "json": _target("json", ports["JSON_PORT"], CHAT, MODEL),
            "stream": _target("stream", ports["STREAM_PORT"], CHAT, MODEL),
        }
        config = filled("upstream.conf", self.scratch, words)
        whole = self.servers.start("fake-json-provider", nginx(self.scratch, config), self.load_core)
        streaming = python("-m", "benchmarks.upstream_stream", str(ports["STREAM_PORT"]))
        streams = self.servers.start("fake-stream-provider", streaming, self.load_core)
        whole.wait_until_ready(targets["json"])
        streams.wait_until_ready(targets["stream"])
        return Subject(name="direct", server=None, targets=targets)

    def _nginx(self, words: dict[str, object], port: int) -> Subject:
        config = filled("proxy.conf", self.scratch, words)
        server = self.servers.start("nginx", nginx(self.scratch, config), self.core)
        targets = {kind: _target(kind, port, f"/{kind}{CHAT}", MODEL) for kind in KINDS}
        return self._ready(Subject(name="nginx", server=server, targets=targets))

    def _switchstand(self, words: dict[str, object], port: int) -> list[Subject]:
        env = gateway.environment(self.scratch, port)
        gateway.set_up(self.scratch, env, words)
        server = self.servers.start("switchstand", gateway.command(), self.core, env)
        key = {"Authorization": f"Bearer {gateway.KEY}"}
        # A request with an Origin comes from a browser: it takes the way through Django.
        doors = {"fast": key, "drf": key | {"Origin": gateway.ORIGIN}}
        subjects = []
        for name, headers in doors.items():
            models = {"json": MODEL, "stream": STREAM_MODEL}
            targets = {kind: _target(kind, port, CHAT, model, headers) for kind, model in models.items()}
            subjects.append(self._ready(Subject(name=name, server=server, targets=targets)))
        return subjects

    def _limited(self, name: str, words: dict[str, object], port: int, redis_url: str) -> Subject:
        """A gateway of its own, whose key and targets have limits; `redis_url` empty: counted in process."""
        scratch = self.scratch / name
        scratch.mkdir()
        env = gateway.environment(scratch, port, redis_url)
        gateway.set_up(scratch, env, words, limits=True)
        server = self.servers.start(f"switchstand-{name}", gateway.command(), self.core, env)
        key = {"Authorization": f"Bearer {gateway.KEY}"}
        models = {"json": MODEL, "stream": STREAM_MODEL}
        targets = {kind: _target(kind, port, CHAT, model, key) for kind, model in models.items()}
        return self._ready(Subject(name=name, server=server, targets=targets))

    def _redis(self, port: int) -> str:
        """On the load's core, as it would be on another machine."""
        program = redis_program()
        assert program
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.servers.start("redis", [program, *options], self.load_core)
        return f"redis://127.0.0.1:{port}/0"

    def _ready(self, subject: Subject) -> Subject:
        assert subject.server
        for target in subject.targets.values():
            subject.server.wait_until_ready(target)
        return subject


def _target(kind: str, port: int, path: str, model: str, headers: dict[str, str] | None = None) -> Target:
    stream = kind == "stream"
    expected = b"".join([*answers.events(), answers.DONE]) if stream else answers.whole()
    return Target(
        port=port,
        path=path,
        model=model,
        stream=stream,
        answer_bytes=len(expected),
        headers={"Content-Type": "application/json"} | (headers or {}),
    )


def nginx_program() -> str | None:
    """Debian installs it in /usr/sbin, which is not on everyone's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def redis_program() -> str | None:
    return shutil.which("redis-server")


def nginx(scratch: Path, config: Path) -> list[str]:
    program = nginx_program()
    assert program
    return [program, "-p", str(scratch), "-c", str(config)]
