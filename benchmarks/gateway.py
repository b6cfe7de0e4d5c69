"""How Switchstand is set up and started for a run: a scratch DATA_DIR, one worker, one key."""

import os
import subprocess
from pathlib import Path

from benchmarks.servers import PROJECT, BenchmarkFailed, filled, python

COMMAND = "manage.py serve --web-only"  # what `make serve` and the Docker image run
KEY = "sk-bench-0123456789abcdef"
ORIGIN = "http://bench.test"
SETUP_SECONDS = 120
# Nothing else is inherited: a DATABASE_URL of the caller's must not be loaded with benchmark rows.
FERNET = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="  # nothing secret is stored in a run
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "UPSTREAM_TRANSPORT")


def command() -> list[str]:
    return python(*COMMAND.split())


LIMITS = ("--rpm", "100000000", "--tpm", "100000000", "--budget", "100000", "--budget-period", "day")
"""Of the rows with limits: never reached, but counted for each request."""


def journal(scratch: Path) -> Path:
    return scratch / "data" / "journal"


def environment(scratch: Path, port: int, redis_url: str = "") -> dict[str, str]:
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | {
        "DATA_DIR": str(scratch / "data"),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WEB_WORKERS": "1",
        "LOG_LEVEL": "WARNING",
        "CORS_ALLOWED_ORIGINS": ORIGIN,
        **({"REDIS_URL": redis_url, "SECRET_KEY": FERNET, "ENCRYPTION_KEYS": FERNET} if redis_url else {}),
    }


def set_up(scratch: Path, env: dict[str, str], words: dict[str, object], limits: bool = False) -> None:
    """Database, providers and key; with `limits` also two targets per route and a strategy.

    Raises BenchmarkFailed with the output of what failed.
    """
    config = filled("limits_config.yaml" if limits else "litellm_config.yaml", scratch, words)
    for arguments in (
        ["migrate", "-v0"],
        ["load_config", str(config)],
        ["create_key", "bench", "--key", KEY, *(LIMITS if limits else ())],
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
