"""Private Redis and Postgres servers for tests, on free ports; each test file gets a clean one."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import redis

from tests.live import ROOT, free_port, until
from tests.optional import PARTS


class RedisServer:
    """A redis-server of our own, to stop, start, freeze and thaw."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.Redis(host="127.0.0.1", port=self.port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "RedisServer":
        program = PARTS["Redis"]
        assert program is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            [program, *options, "--dir", str(self.directory)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers, "redis-server answers")
        return self

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            self._process.terminate()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """Connections are accepted, but nothing is ever answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


class PostgresServer:
    """A cluster of our own; Postgres refuses to run as root, so root lends it to an unprivileged user."""

    def __init__(self, directory: Path) -> None:
        programs = PARTS["Postgres"]
        assert programs is not None
        self.port = free_port()
        self.directory = directory / "postgres"
        self._programs = Path(programs)
        self._user = _unprivileged_user()
        self._template = ""
        self._run("initdb", "-D", str(self.directory), "-U", "switchstand", "-A", "trust", "-N")

    def url(self, database: str) -> str:
        return f"postgres://switchstand@127.0.0.1:{self.port}/{database}"

    def create_database(self, database: str, *, migrated: bool = False) -> str:
        """The URL of a new database: empty, or with all tables (copied, which takes no time)."""
        if migrated and not self._template:
            self._template = self._migrated("migrated_template")
        self._create(database, self._template if migrated else "template1")
        return self.url(database)

    def _create(self, database: str, template: str) -> None:
        command = psycopg.sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            psycopg.sql.Identifier(database), psycopg.sql.Identifier(template)
        )
        with psycopg.connect(self.url("postgres"), autocommit=True) as link:
            link.execute(command)

    def _migrated(self, database: str) -> str:
        self._create(database, "template1")
        done = subprocess.run(
            [sys.executable, "manage.py", "migrate", "--noinput", "-v0"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": self.url(database)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return database

    def start(self) -> "PostgresServer":
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self.directory / "server.log")
        self._run("pg_ctl", "-D", str(self.directory), "-o", options, "-l", log, "-w", "start")
        return self

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.directory), "-m", "immediate", "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        # A file, not a pipe: the server that pg_ctl leaves behind would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                command, user=self._user, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            output.seek(0)
            if done.returncode:
                raise AssertionError(f"{program} failed: {output.read()}")


def _unprivileged_user() -> str | None:
    """None: not root, so nothing to change."""
    if os.geteuid() != 0:
        return None
    return pwd.getpwnam("postgres").pw_name


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A directory that the unprivileged user can work in."""
    directory = Path(tempfile.mkdtemp(prefix=f"switchstand-{prefix}-"))
    if user := _unprivileged_user():
        shutil.chown(directory, user)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
