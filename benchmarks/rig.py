"""Builds what is compared: the fake providers, nginx, Switchstand and its peers, each on its core."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import answers, gateway
from benchmarks.answers import SCENARIOS
from benchmarks.load import Target
from benchmarks.servers import Server, Servers, filled, free_ports, python

CHAT = "/v1/chat/completions"
MODEL, OTHER_MODEL = "gpt-4o-mini", "gpt-4o-mini-stream"  # of the quick JSON provider, of the other one


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One row of the table. `servers` are the proxies whose CPU and memory are read; direct has none.

    `slow`: it answers so little that its runs must be longer.
    """

    name: str
    targets: dict[str, Target]
    quick: Server | None = None  # serves the scenario json
    other: Server | None = None  # serves the others
    slow: bool = False

    def server_of(self, scenario: str) -> Server | None:
        return self.quick if scenario == "json" else self.other

    def wait_until_ready(self) -> "Subject":
        for scenario in ("json", "s32"):
            if (server := self.server_of(scenario)) is not None:
                server.wait_until_ready(self.targets[scenario])
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """`core` is the proxies' own; the fake providers and the load generator share `load_core`."""

    servers: Servers
    scratch: Path
    core: int
    load_core: int
    ports: dict[str, int] = field(default_factory=lambda: ports("JSON", "OTHER"))

    def build(self, wanted: list[str]) -> list[Subject]:
        """Starts the providers and what the wanted subjects need; returns when all of it answers."""
        subjects = [self._direct()]
        if "nginx" in wanted:
            subjects.append(self._nginx())
        if {"fast", "drf"} & set(wanted):
            subjects += self._switchstand()
        if "limits" in wanted:
            subjects.append(self._limited("limits", ""))
        if "redis" in wanted and redis_program():
            subjects.append(self._limited("redis", self._redis()))
        return [subject for subject in subjects if subject.name in wanted]

    def words(self, **more: object) -> dict[str, object]:
        """What the templates may name."""
        return {"SCRATCH": self.scratch, "ANSWER": answers.whole(), **self.ports, **more}

    def start(self, name: str, command: list[str], env: dict[str, str] | None = None) -> Server:
        """On the proxies' core."""
        return self.servers.start(name, command, self.core, env)

    def keep_awake(self) -> None:
        """The load's core."""
        self.servers.start("awake", python("-m", "benchmarks.awake"), self.load_core)

    def _direct(self) -> Subject:
        json_port, other_port = self.ports["JSON_PORT"], self.ports["OTHER_PORT"]
        config = filled("upstream.conf", self.scratch, self.words())
        whole = self.servers.start("fake-json-provider", nginx(self.scratch, config), self.load_core)
        command = python("-m", "benchmarks.upstream", str(other_port))
        other = self.servers.start("fake-provider", command, self.load_core)
        found = {
            name: _target(name, json_port if name == "json" else other_port, MODEL) for name in SCENARIOS
        }
        whole.wait_until_ready(found["json"])
        other.wait_until_ready(found["s32"])
        return Subject(name="direct", targets=found)

    def _nginx(self) -> Subject:
        found = ports("NGINX")
        config = filled("proxy.conf", self.scratch, self.words(**found))
        server = self.start("nginx", nginx(self.scratch, config))
        port = found["NGINX_PORT"]
        by_name = {
            name: _target(name, port, MODEL, path=f"/{'json' if name == 'json' else 'other'}{CHAT}")
            for name in SCENARIOS
        }
        return Subject(name="nginx", targets=by_name, quick=server, other=server).wait_until_ready()

    def _switchstand(self) -> list[Subject]:
        port = ports("GATEWAY")["GATEWAY_PORT"]
        env = gateway.environment(self.scratch, port)
        gateway.set_up(self.scratch, env, self.words())
        server = self.start("switchstand", gateway.command(), env)
        server.journal = gateway.journal(self.scratch)
        key = {"Authorization": f"Bearer {gateway.KEY}"}
        # A request with an Origin comes from a browser: it takes the way through Django.
        doors = {"fast": key, "drf": key | {"Origin": gateway.ORIGIN}}
        subjects = []
        for name, headers in doors.items():
            subject = Subject(name=name, targets=targets(port, headers), quick=server, other=server)
            subjects.append(subject.wait_until_ready())
        return subjects

    def _limited(self, name: str, redis_url: str) -> Subject:
        """A gateway of its own, whose key and targets have limits; `redis_url` empty: counted in process."""
        scratch = self.scratch / name
        scratch.mkdir()
        port = ports("LIMITED")["LIMITED_PORT"]
        env = gateway.environment(scratch, port, redis_url)
        gateway.set_up(scratch, env, self.words(), limits=True)
        server = self.start(f"switchstand-{name}", gateway.command(), env)
        server.journal = gateway.journal(scratch)
        key = {"Authorization": f"Bearer {gateway.KEY}"}
        return Subject(name=name, targets=targets(port, key), quick=server, other=server).wait_until_ready()

    def _redis(self) -> str:
        """On the load's core, as it would be on another machine."""
        program, port = redis_program(), ports("REDIS")["REDIS_PORT"]
        assert program
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.servers.start("redis", [program, *options], self.load_core)
        return f"redis://127.0.0.1:{port}/0"


def ports(*names: str) -> dict[str, int]:
    """A free one for each, as NAME_PORT."""
    return dict(zip((f"{name}_PORT" for name in names), free_ports(len(names)), strict=True))


def targets(port: int, headers: dict[str, str], *, rewrites: bool = False) -> dict[str, Target]:
    """Of a gateway that finds the provider by the model."""
    models = {name: MODEL if name == "json" else OTHER_MODEL for name in SCENARIOS}
    return {name: _target(name, port, model, headers, rewrites=rewrites) for name, model in models.items()}


def _target(
    scenario: str,
    port: int,
    model: str,
    headers: dict[str, str] | None = None,
    *,
    path: str = CHAT,
    rewrites: bool = False,
) -> Target:
    return Target(
        port=port,
        path=path,
        model=model,
        scenario=scenario,
        headers={"Content-Type": "application/json"} | (headers or {}),
        rewrites=rewrites,
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
