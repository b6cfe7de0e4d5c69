"""`make serve`'s command in an empty DATA_DIR, as a newcomer runs it."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx

from gateway_project import greeting
from tests import plain
from tests.live import ROOT, free_port, until

OURS = ("DATABASE_URL", "SECRET_KEY", "ENCRYPTION_KEYS", "DJANGO_SETTINGS_MODULE")
"""Set for the tests' own process; a newcomer has none of them."""


class Served:
    def __init__(self, data_dir: Path, port: int | None = None, **env: str) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        kept = {name: value for name, value in os.environ.items() if name not in OURS}
        given = {
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "METRICS_TOKEN": "token-of-the-tests",
        }
        self.env = kept | given | env
        self.output = ""
        self.process: subprocess.Popen[str] | None = None

    def begin(self) -> "Served":
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def start(self) -> "Served":
        self.begin()
        return self.wait_until_ready()

    def wait_until_ready(self) -> "Served":
        until(lambda: "\nReady: " in self.output, lambda: f"serve is ready:\n{self.output}", 120)
        until(lambda: self.output.count(greeting.RULE) == 2, "the box is whole")
        return self

    def ready(self) -> bool:
        try:
            return plain.get(f"{self.url}/health/readiness").status_code == 200
        except httpx.TransportError:
            return False

    def readiness(self) -> dict[str, Any]:
        """With its details."""
        token = {"authorization": f"Bearer {self.env['METRICS_TOKEN']}"}
        found: dict[str, Any] = plain.get(f"{self.url}/health/readiness", headers=token).json()
        return found

    @property
    def secrets(self) -> str:
        """What the output names: these processes write into a pipe, which is no terminal."""
        found = re.search(r"^Secrets: .*: (\S+) ", self.output, re.MULTILINE)
        return Path(found[1]).read_text() if found else ""

    @property
    def password(self) -> str:
        found = re.search(r"^Password: (\S+)$", self.secrets, re.MULTILINE)
        return found[1] if found else ""

    @property
    def curl(self) -> str:
        """The command that is shown, as one would copy it."""
        found = re.search(r"^curl .*?}'$", self.secrets, re.MULTILINE | re.DOTALL)
        assert found, self.output
        return found[0]

    @property
    def key(self) -> str:
        found = re.search(r"Bearer (sk-[^\"]+)", self.curl)
        assert found
        return found[1]

    def ask(self, words: int = 1, **body: Any) -> httpx.Response:
        """With the printed key, of the demo provider."""
        content = " ".join(["word"] * words)
        body = {"model": "demo-echo", "messages": [{"role": "user", "content": content}]} | body
        headers = {"authorization": f"Bearer {self.key}"}
        return plain.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=30)

    def stop(self, sign: int = signal.SIGINT, seconds: float = 10) -> int:
        """The exit code. Fails where it takes longer than `seconds`."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def processes(self) -> dict[int, str]:
        """All that were started with this DATA_DIR and still run: their numbers and command lines."""
        mark = f"DATA_DIR={self.data_dir}\0".encode()
        return {
            int(entry.name): _read(entry / "cmdline").replace(b"\0", b" ").decode()
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and mark in _read(entry / "environ")
        }

    def kill(self) -> None:
        """The end of a test, whatever became of it."""
        assert self.process is not None
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
