"""Code run beside a gateway, in a process that has Django set up: each start costs more than most tests."""

import json
import subprocess
import sys
from types import TracebackType
from typing import IO

from tests.live import ROOT

_LOOP = """
import contextlib, io, json, sys, traceback
import django
django.setup()
from django.db import connections
for line in sys.stdin:
    printed, problem = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(json.loads(line), {"__name__": "__main__"})
    except BaseException:
        problem = traceback.format_exc()
    connections.close_all()
    print(json.dumps([printed.getvalue(), problem]), flush=True)
"""


class PythonProcess:
    """Started by the first code that it runs."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env | {"DJANGO_SETTINGS_MODULE": "gateway_project.settings"}
        self._process: subprocess.Popen[str] | None = None

    def run(self, code: str) -> str:
        """What it prints; names that it makes are gone afterwards. Fails the test where it raises."""
        process = self._process = self._process or self._start()
        print(json.dumps(code), file=_open(process.stdin), flush=True)
        answer = _open(process.stdout).readline()
        assert answer, f"ended with {process.wait(10)}"
        printed, problem = json.loads(answer)
        assert not problem, problem
        return str(printed)

    def _start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            cwd=ROOT,
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def stop(self) -> None:
        if self._process is not None:
            _open(self._process.stdin).close()
            self._process.wait(20)
            _open(self._process.stdout).close()
            self._process = None

    def __enter__(self) -> "PythonProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _open(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
