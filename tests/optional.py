"""Parts of the machine that some tests need: found, or left out and said so."""

import os
import shutil
from pathlib import Path

import pytest


def _postgres() -> str | None:
    """The directory of initdb and postgres."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = shutil.which("initdb") or (str(found[-1]) if found else None)
    return str(Path(path).parent) if path else None


PARTS = {
    "Postgres": _postgres(),
    "Redis": shutil.which("redis-server"),
    "nginx": shutil.which("nginx"),
    "Chromium": shutil.which("chromium") or shutil.which("chromium-browser"),
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
