"""A gateway as users run it: its web server in a process of its own, beside the test's database."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx

from gateway_project import processes
from monitoring.shipping.backlog import backlog_bytes
from monitoring.shipping.state import read_state
from tests import plain

ROOT = Path(__file__).resolve().parent.parent
ORIGIN = "http://allowed.test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = 10.0) -> Any:
    """The first true result of `condition`; fails the test with `what` when it takes too long."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what() if callable(what) else what}")
        time.sleep(0.02)


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 10.0) -> None:
    """The same for what happens on the event loop that the test runs on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(0.01)


def steady(value: Callable[[], Any], seconds: float = 0.5) -> Any:
    """The value once it has not changed for so long."""
    found: list[Any] = [value()]

    def stays() -> bool:
        time.sleep(seconds)
        found.append(value())
        return bool(found[-1] == found[-2])

    until(stays, lambda: f"it comes to rest: {found}", 20)
    return found[-1]


def is_free(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(lock, fcntl.LOCK_UN)
    return True


class LiveGateway:
    def __init__(self, data_dir: Path, env: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.log = data_dir / f"gateway-{self.port}.log"
        self.env = {
            **os.environ,
            "DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "CORS_ALLOWED_ORIGINS": ORIGIN,
            "PYTHONWARNINGS": "ignore",
            "METRICS_TOKEN": "metrics-token-of-the-tests",
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "LiveGateway":
        command = [*processes.web(30), f"--port={self.port}"]
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.env, stdout=out, stderr=out, start_new_session=True
            )
        until(self._is_up, lambda: f"the gateway answers; its log:\n{self.log.read_text()[-3000:]}", 90)
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        code = self.process.poll()
        assert code is None, f"the gateway ended with {code}; its log:\n{self.log.read_text()[-3000:]}"
        return self.answers()

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return plain.get(f"{self.url}/health/liveliness").status_code == 200
        return False

    def readiness(self) -> dict[str, Any]:
        """With its details."""
        found: dict[str, Any] = plain.get(f"{self.url}/health/readiness", headers=self.token).json()
        return found

    @property
    def token(self) -> dict[str, str]:
        """The header that opens readiness and metrics."""
        return {"authorization": f"Bearer {self.env['METRICS_TOKEN']}"}

    def stop(self, sign: int = signal.SIGTERM) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, sign)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(5)
        self.process = None
        self._wait_for_shipper()

    def wait_until_shipped(self) -> None:
        """All that its journal holds is in the database."""
        began = time.time()

        def is_empty() -> bool:
            told = read_state(self.journal)
            return told is not None and told.at > began and not backlog_bytes(self.journal, told)

        until(is_empty, f"{self.journal} is shipped", 30)

    def _wait_for_shipper(self) -> None:
        """It outlives its web process by what it still has to ship, into a table that others look at."""
        with contextlib.suppress(FileNotFoundError), open(self.journal / "shipper.lock") as file:
            until(lambda: is_free(file), "the shipper ends", 30)

    @property
    def journal(self) -> Path:
        return self.data_dir / "journal"

    def wait_for_version(self, version: int) -> None:
        until(
            lambda: self.readiness()["table_version"] == version,
            lambda: f"table version {version} is served: {self.readiness()}\n{self.log.read_text()[-1500:]}",
        )

    def manage(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A management command in the gateway's own environment."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=self.env,
            capture_output=True,
            text=True,
            check=check,
            timeout=120,
        )


class Door:
    """Calls a live gateway through one of its two doors."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.headers = {"origin": ORIGIN} if name == "drf" else {}
        self.client = plain.Client(base_url=url, headers=self.headers, timeout=30)

    def chat(
        self,
        key: str | None,
        model: str = "gpt",
        *,
        path: str = "/v1/chat/completions",
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
        **body: Any,
    ) -> httpx.Response:
        return self.client.post(
            path, headers=self._auth(key) | (headers or {}), content=content or ask(model, **body)
        )

    @contextlib.contextmanager
    def stream(
        self, key: str, model: str = "gpt", *, headers: dict[str, str] | None = None, **body: Any
    ) -> Iterator[httpx.Response]:
        content = ask(model, stream=True, **body)
        sent = self._auth(key) | (headers or {})
        with self.client.stream("POST", "/v1/chat/completions", headers=sent, content=content) as response:
            yield response

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        return self.client.get(path, headers=self._auth(key))

    def _auth(self, key: str | None) -> dict[str, str]:
        return {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})


def ask(model: str, **body: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]} | body
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()
