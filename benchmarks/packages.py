"""Installs the peers from their registries, each at a pinned version into a folder of its own.

The folders are in BENCH_PEERS_DIR, by default in the user's cache directory: never in the tree.
"""

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INSTALL_SECONDS = 900
DONE = "installed"


class NotInstalled(Exception):
    """The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Package:
    """`program`: within its folder, what is started."""

    name: str
    version: str
    program: str
    install: Callable[["Package", Path], None]

    @property
    def folder(self) -> Path:
        return home() / f"{self.name}-{self.version}"

    def installed(self) -> Path:
        """The folder; installs first where that is needed. Raises NotInstalled."""
        if not (self.folder / DONE).exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            print(f"Installing {self.name} {self.version} into {self.folder}", file=sys.stderr)
            self.install(self, self.folder)
            (self.folder / DONE).touch()
        return self.folder


def home() -> Path:
    if chosen := os.environ.get("BENCH_PEERS_DIR"):
        return Path(chosen).resolve()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "switchstand-bench"


def _pip(requirement: str) -> Callable[[Package, Path], None]:
    def install(package: Package, folder: Path) -> None:
        venv.create(folder / "venv", with_pip=True)
        wanted = f"{requirement}=={package.version}"
        _run([str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", wanted], folder)

    return install


def _npm(overrides: dict[str, str]) -> Callable[[Package, Path], None]:
    def install(package: Package, folder: Path) -> None:
        if not (npm := shutil.which("npm")) or not shutil.which("node"):
            raise NotInstalled("npm and node are needed. On Debian: apt-get install nodejs npm")
        asked = {"private": True, "dependencies": {NPM_NAME: package.version}, "overrides": overrides}
        (folder / "package.json").write_text(json.dumps(asked))
        _run([npm, "install", "--loglevel=error", "--no-audit", "--no-fund"], folder)

    return install


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
    if done.returncode:
        raise NotInstalled(f"{' '.join(command)} failed:\n{done.stdout[-1500:]}")


NPM_NAME = "@portkey-ai/gateway"
PACKAGES = {
    "sglang": Package("sglang-router", "0.3.2", "venv/bin/python", _pip("sglang-router")),
    # @hono/node-server from 1.14 on answers each of its streams with 500.
    "portkey": Package(
        "portkey-gateway",
        "1.15.2",
        f"node_modules/{NPM_NAME}/build/start-server.js",
        _npm({"@hono/node-server": "1.13.5"}),
    ),
    # Never 1.82.7 or 1.82.8: they were malicious releases.
    "litellm": Package("litellm", "1.108.7", "venv/bin/litellm", _pip("litellm[proxy]")),
}
