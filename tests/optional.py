"""Parts of the machine that some tests need: found, or left out and said so."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE_MAJOR = 18
NODE_PACKAGES = Path(__file__).parent / "clients" / "node_modules" / "installed"
"""Where the Makefile says that `npm ci` came to its end."""


def _postgres() -> str | None:
    """The directory of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (str(found[-1]) if found else None)
    return str(Path(path).parent) if path else None


def _node() -> str | None:
    """node, once `make test` has installed tests/clients; the clients need NODE_MAJOR or newer."""
    path = shutil.which("node")
    if path is None or not NODE_PACKAGES.exists():
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return path if int(version.lstrip("v").split(".")[0]) >= NODE_MAJOR else None


PARTS = {
    "Postgres": _postgres(),
    "Redis": shutil.which("redis-server"),
    "nginx": shutil.which("nginx"),
    "Chromium": shutil.which("chromium") or shutil.which("chromium-browser"),
    "Node": _node(),
}


def missing() -> list[str]:
    return [name for name, path in PARTS.items() if path is None]


def check_required() -> None:
    """REQUIRE_ALL=1 (as in CI) turns a missing part into a failure."""
    if os.environ.get("REQUIRE_ALL") == "1" and missing():
        raise pytest.UsageError(f"REQUIRE_ALL=1, but not found: {', '.join(missing())}")


def report() -> str:
    if not missing():
        return "Optional parts: all found, nothing left out."
    return f"Optional parts not found, their tests were left out: {', '.join(missing())}."


def needs(part: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(PARTS[part] is None, reason=f"{part} is not installed")
