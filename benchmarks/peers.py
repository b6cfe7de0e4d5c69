"""Other gateways beside ours, each as its documents say for one process and little logging."""

import os
import sys

from benchmarks.cells import SUBJECTS
from benchmarks.gateway import KEY
from benchmarks.packages import PACKAGES, NotInstalled
from benchmarks.rig import Rig, Subject, ports, targets
from benchmarks.servers import BenchmarkFailed, Server, filled

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")


def build(rig: Rig, wanted: list[str]) -> tuple[list[Subject], list[str]]:
    """The peers that run here, and why the others don't."""
    subjects, problems = [], []
    for name, start in STARTS.items():
        if name not in wanted:
            continue
        try:
            subjects.append(start(rig).wait_until_ready())
        except (NotInstalled, BenchmarkFailed) as problem:
            reason = str(problem)
            print(f"{name}: {reason}", file=sys.stderr)
            problems.append(f"{SUBJECTS[name]} is left out: {reason.splitlines()[0]}")
    return subjects, problems


def _environment(**more: str) -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | more


def _sglang(rig: Rig) -> Subject:
    """It has one list of workers for all models: one router for each provider."""
    quick, quick_port = _sglang_router(rig, "quick", rig.ports["JSON_PORT"])
    other, other_port = _sglang_router(rig, "other", rig.ports["OTHER_PORT"])
    found = targets(other_port, {}) | {"json": targets(quick_port, {})["json"]}
    return Subject(name="sglang", targets=found, quick=quick, other=other)


def _sglang_router(rig: Rig, name: str, worker: int) -> tuple[Server, int]:
    package = PACKAGES["sglang"]
    own = ports("ROUTER", "PROMETHEUS")
    options = {
        "host": "127.0.0.1",
        "port": own["ROUTER_PORT"],
        "worker-urls": f"http://127.0.0.1:{worker}",
        "policy": "round_robin",
        "log-level": "error",
        "max-concurrent-requests": 16384,
        "prometheus-host": "127.0.0.1",
        "prometheus-port": own["PROMETHEUS_PORT"],
    }
    command = [str(package.installed() / package.program), "-m", "sglang_router.launch_router"]
    command += [text for option, value in options.items() for text in (f"--{option}", str(value))]
    command += ["--disable-retries", "--disable-circuit-breaker"]
    return rig.start(f"sglang-router-{name}", command, _environment()), own["ROUTER_PORT"]


def _portkey(rig: Rig) -> Subject:
    """A request's headers name the provider."""
    package = PACKAGES["portkey"]
    port = ports("PORTKEY")["PORTKEY_PORT"]
    command = ["node", str(package.installed() / package.program), f"--port={port}", "--headless"]
    server = rig.start("portkey", command, _environment(NODE_ENV="production"))
    found = {
        name: target
        for part in ("JSON", "OTHER")
        for name, target in _portkey_targets(rig, port, part).items()
    }
    return Subject(name="portkey", targets=found, quick=server, other=server)


def _portkey_targets(rig: Rig, port: int, part: str) -> dict:
    headers = {
        "Authorization": "Bearer sk-upstream-1",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{rig.ports[f'{part}_PORT']}/v1",
    }
    return {
        name: target
        for name, target in targets(port, headers).items()
        if (name == "json") == (part == "JSON")
    }


def _litellm(rig: Rig) -> Subject:
    package = PACKAGES["litellm"]
    port = ports("LITELLM")["LITELLM_PORT"]
    config = filled("peer_litellm.yaml", rig.scratch, rig.words())
    command = [str(package.installed() / package.program), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = _environment(
        LITELLM_MODE="PRODUCTION", LITELLM_LOG="ERROR", NO_DOCS="True", LITELLM_LOCAL_MODEL_COST_MAP="True"
    )
    server = rig.start("litellm", command, env)
    found = targets(port, {"Authorization": f"Bearer {KEY}"}, rewrites=True)
    return Subject(name="litellm", targets=found, quick=server, other=server, slow=True)


STARTS = {"sglang": _sglang, "portkey": _portkey, "litellm": _litellm}
