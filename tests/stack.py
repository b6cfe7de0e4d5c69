"""A gateway as it runs on several machines: web, worker and beat apart, with Redis and Postgres."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx

from gateway_project import processes
from tests import plain
from tests.live import ROOT, LiveGateway
from tests.python_process import PythonProcess

COMMANDS = {"worker": processes.worker, "beat": processes.beat}


class Stack:
    """`web` starts first and migrates nothing: the database must be migrated."""

    def __init__(self, data_dir: Path, env: dict[str, str]) -> None:
        self.data_dir = data_dir
        self.env = env
        self.web = LiveGateway(data_dir / "web", env)
        self._python = PythonProcess(self.web.env)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> "Stack":
        for name in names:
            if name == "web":
                self.web.start()
            else:
                self.start_part(name)
        return self

    def start_part(self, name: str) -> None:
        """`beat-2` is a second beat, with a DATA_DIR of its own as on another machine."""
        directory = self.data_dir / name
        directory.mkdir(exist_ok=True)
        command = [part for part in COMMANDS[name.split("-")[0]]() if part != "--quiet"]
        with open(self.log(name), "ab") as out:
            self._running[name] = subprocess.Popen(
                [*command, "--loglevel=INFO"],
                cwd=ROOT,
                env=self.web.env | {"DATA_DIR": str(directory)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def log(self, name: str) -> Path:
        return self.data_dir / f"{name}.log"

    def sent(self, name: str) -> int:
        """Tasks that a beat has sent."""
        return self.log(name).read_text().count("Sending due task")

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)
        self._python.stop()
        self.web.stop()

    def python(self, code: str) -> str:
        """In the gateway's own environment, with Django set up."""
        return self._python.run(code)


class AdminBrowser:
    """The admin over HTTP, as a person sees it."""

    def __init__(self, url: str, password: str) -> None:
        self.client = plain.Client(base_url=url, follow_redirects=True, timeout=20)
        token = self._token(self.client.get("/admin/login/"))
        form = {"username": "admin", "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        answer = self.client.post("/admin/login/", data=form, headers={"referer": f"{url}/admin/login/"})
        assert "Log out" in answer.text or answer.url.path == "/admin/", answer.text[:500]

    def get(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
        return answer.text

    def health_of(self, slug: str) -> str:
        """The badge that the list of providers shows."""
        page = self.get("/admin/routing/provider/")
        rows: list[Any] = [row for row in page.split("<tr")[1:] if f">{slug}</a>" in row]
        found = re.search(r"\b(healthy|unhealthy|degraded|unknown|disabled)\b", rows[0])
        assert found, rows[0]
        return found[1]

    def _token(self, answer: httpx.Response) -> str:
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', answer.text)
        assert found
        return found[1]
