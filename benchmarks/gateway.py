"""How Switchstand is set up and started for a run: a scratch DATA_DIR, one worker, one key."""

import os
import shlex
import subprocess
from pathlib import Path

from benchmarks.servers import PROJECT, BenchmarkFailed, filled, python

COMMAND = (
    "-m granian --interface asgi --loop uvloop --workers 1 --no-ws --backlog 4096 --backpressure 16384"
    " --http 1 --host 127.0.0.1 --port {port} gateway_project.asgi:application"
)
KEY = "sk-bench-12345678"
ORIGIN = "http://bench.test"
SETUP_SECONDS = 120
# Nothing else is inherited: a DATABASE_URL of the caller's must not be loaded with benchmark rows.
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "UPSTREAM_TRANSPORT")


def command(port: int) -> list[str]:
    return python(*shlex.split(COMMAND.format(port=port)))


def environment(scratch: Path, port: int) -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | {
        "DATA_DIR": str(scratch / "data"),
        "PORT": str(port),
        "LOG_LEVEL": "WARNING",
        "CORS_ALLOWED_ORIGINS": ORIGIN,
    }


def set_up(scratch: Path, env: dict[str, str], words: dict[str, object]) -> None:
    """Database, providers and key. Raises BenchmarkFailed with the output of what failed."""
    config = filled("litellm_config.yaml", scratch, words)
    for arguments in (
        ["migrate", "-v0"],
        ["load_config", str(config)],
        ["create_key", "bench", "--key", KEY],
    ):
        done = subprocess.run(
            python("manage.py", *arguments),
            cwd=PROJECT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SETUP_SECONDS,
        )
        if done.returncode:
            raise BenchmarkFailed(f"manage.py {arguments[0]} failed:\n{done.stdout[-3000:]}")
