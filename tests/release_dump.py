"""Dumps of a release, for the test that the next one starts on them. Run it in the release's own checkout:

    python -m tests.release_dump tests/data/release-VERSION

It serves with that code, on SQLite and on a Postgres of its own, makes rows of every kind through the doors
and commands of the release, and ends it with SIGKILL while calls are open and others are not shipped yet.
Then commit the folder, and remove that of the release before.
"""

import gzip
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests import environment, optional
from tests.live import ROOT, Door, until
from tests.python_process import PythonProcess
from tests.release import KEYS, OPEN, UNSHIPPED
from tests.served import Served
from tests.services import PostgresServer, scratch
from tests.upstream import Answer, FakeUpstream, events

PORT = 39471
"""Of the scripted provider while the dump is made; who loads the dump puts its own in its place."""

SECRETS = {
    "SECRET_KEY": "only-for-the-test-of-upgrades-0123456789",
    "ENCRYPTION_KEYS": "b25seS1mb3ItdGVzdHMtbmV2ZXItdXNlLXRoaXMtMzI=",
}
LEFT_OUT = {"static"}  # directories of DATA_DIR that a start makes anew; exchanges name this machine


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    version = (ROOT / "VERSION").read_text().strip()
    facts: dict[str, Any] = {"version": version, "port": PORT, "secrets": SECRETS, "keys": KEYS}
    upstream = FakeUpstream(PORT)
    with scratch("release") as directory, scratch("postgres") as for_postgres:
        facts["sqlite"] = _sqlite(directory / "sqlite", upstream, folder)
        server = PostgresServer(for_postgres).start()
        try:
            facts["postgres"] = _postgres(directory / "postgres", upstream, folder, server)
        finally:
            server.stop()
    upstream.close()
    (folder / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")


def _sqlite(data_dir: Path, upstream: FakeUpstream, folder: Path) -> dict[str, Any]:
    data_dir.mkdir()
    for name, value in SECRETS.items():
        (data_dir / f"{name.lower()}.secret").write_text(value)
    facts = _run(Served(data_dir, ALERT_TICK_SECONDS="1"), upstream)
    with closing(sqlite3.connect(data_dir / "switchstand.sqlite3")) as link:
        facts["rows"] = link.execute("SELECT count(*) FROM monitoring_requestlog").fetchone()[0]
        _check_all_filled(lambda table: link.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])
        _write(folder / "sqlite.sql.gz", "\n".join(link.iterdump()) + "\n")
    _pack(data_dir, folder / "sqlite.tar.gz")
    return facts


def _postgres(data_dir: Path, upstream: FakeUpstream, folder: Path, server: PostgresServer) -> dict[str, Any]:
    data_dir.mkdir()
    url = server.create_database("release")
    facts = _run(Served(data_dir, DATABASE_URL=url, ALERT_TICK_SECONDS="1", **SECRETS), upstream)
    with psycopg.connect(url) as link:

        def count(table: str) -> int:
            row = link.execute(
                psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(table))
            )
            return int((row.fetchone() or [0])[0])

        facts["rows"] = count("monitoring_requestlog")
        _check_all_filled(count)
    _write(folder / "postgres.sql.gz", _pg_dump(url))
    _pack(data_dir, folder / "postgres.tar.gz")
    return facts


def _run(gateway: Served, upstream: FakeUpstream) -> dict[str, Any]:
    """Serves, fills, and is killed."""
    upstream.clear()
    _script(upstream)
    gateway.start()
    facts: dict[str, Any] = {"demo_key": gateway.key if "Bearer" in gateway.output else ""}
    with PythonProcess(gateway.env) as python:
        python.run(f"from tests.release_rows import *; configure('http://127.0.0.1:{PORT}'); fill_days()")
        door = Door("fast_lane", gateway.url)
        until(lambda: door.chat(KEYS["app"]).status_code == 200, "the routes are served")
        _call_in_every_way(gateway, door, upstream)
        code = (
            "from monitoring.models import AlertDelivery as D; print(D.objects.filter(status='sent').count())"
        )
        until(lambda: int(python.run(code)), "the alert of the provider that is down is told", 60)
        python.run("from tests.release_rows import *; finish()")
        _wait_until_shipped(gateway, python)
    _end_in_the_middle(gateway, upstream)
    return facts


def _script(upstream: FakeUpstream) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140}
    upstream.always("main", Answer(chunks=None))
    upstream.always("hook", Answer(body={"ok": True}))
    upstream.script("main", Answer(body={"choices": [], "usage": usage}))


def _call_in_every_way(gateway: Served, door: Door, upstream: FakeUpstream) -> None:
    for model in ("gpt", "gpt-4", "open/o4-mini", "fragile", "shadowed"):
        door.chat(KEYS["app"], model, headers={"x-litellm-tags": "batch,eval", "x-client-info": "release"})
    for _ in range(2):
        door.chat(KEYS["free"], "unpriced")
    upstream.always("main", Answer(chunks=events("Hel", "lo!", usage=True)))
    with door.stream(KEYS["app"]) as response:
        response.read()
    gate = threading.Event()
    upstream.script("main", Answer(chunks=events("Hel", "lo!"), gate=gate))
    with door.stream(KEYS["app"]) as response:  # hangs up
        next(response.iter_raw())
    gate.set()
    upstream.script("main", Answer(chunks=events("Hel", "lo!", done=False), cut="after_chunks"))
    with door.stream(KEYS["app"]) as response:
        response.read()
    upstream.always("main", Answer())
    for key, model in (
        (None, "gpt"),
        ("sk-nobody", "gpt"),
        (KEYS["app"], "nothing"),
        (KEYS["revoked"], "gpt"),
    ):
        door.chat(key, model)
    for name in ("limited", "limited", "limited", "prepaid", "expired"):
        door.chat(KEYS[name], "gpt")
    door.chat(KEYS["restricted"], "unpriced")
    door.chat(KEYS["app"], content=b"{")
    if "Bearer" in gateway.output:
        gateway.ask()


def _wait_until_shipped(gateway: Served, python: PythonProcess) -> None:
    code = (
        "from monitoring.shipping.backlog import backlog_bytes;"
        "from monitoring.shipping.state import read_state;"
        "from pathlib import Path; p = Path({!r}); print(backlog_bytes(p, read_state(p)))"
    ).format(str(gateway.data_dir / "journal"))
    until(lambda: python.run(code).strip() == "0", "the journal is shipped", 30)


def _end_in_the_middle(gateway: Served, upstream: FakeUpstream) -> None:
    """The shipper stands still: some calls have ended and are no rows yet, some are open."""
    for pid, command in gateway.processes().items():
        if "ship_journal" in command:
            os.kill(pid, signal.SIGSTOP)
    door = Door("drf", gateway.url)
    for _ in range(UNSHIPPED):
        assert door.chat(KEYS["app"]).status_code == 200
    before = len(upstream.calls("main"))
    gate = threading.Event()
    upstream.script("main", *[Answer(delay=60)], Answer(chunks=events("Hel", "lo!"), gate=gate))
    with ThreadPoolExecutor(OPEN) as pool:
        asked: list[Future[Any]] = [pool.submit(_ask, gateway, stream) for stream in (False, True)]
        until(lambda: len(upstream.calls("main")) == before + OPEN, "the calls are open")
        assert gateway.process is not None
        for pid in {gateway.process.pid, *gateway.processes()}:
            os.kill(pid, signal.SIGKILL)
        gateway.process.wait(10)
        for one in asked:
            one.exception(10)
    gate.set()


def _ask(gateway: Served, stream: bool) -> None:
    try:
        Door("fast_lane", gateway.url).chat(KEYS["app"], stream=stream or None)
    except httpx.TransportError:
        return  # as meant: the gateway is killed
    raise AssertionError("the call should have been open when the gateway was killed")


def _check_all_filled(count: Any) -> None:
    for table in _tables():
        assert count(table), f"{table} is empty: the dump must hold all kinds of rows"


EMPTY = {
    "auth_group",
    "auth_group_permissions",
    "auth_user_groups",
    "auth_user_user_permissions",
    "django_session",
    "monitoring_stalehour",
}


def _tables() -> Iterator[str]:
    import django
    from django.apps import apps

    django.setup()
    for model in apps.get_models(include_auto_created=True):
        if model._meta.db_table not in EMPTY:
            yield model._meta.db_table


def _pg_dump(url: str) -> str:
    """INSERTs, which any client can send; without what only this version's psql knows."""
    program = Path(str(optional.PARTS["Postgres"])) / "pg_dump"
    command = [shutil.which("pg_dump") or str(program), "--inserts", "--rows-per-insert=100", "--no-owner"]
    done = subprocess.run([*command, "--no-privileges", url], capture_output=True, text=True, check=True)
    return re.sub(
        r"^(\\(un)?restrict .*|SET (transaction|idle_in).*|--.*)?\n", "", done.stdout, flags=re.MULTILINE
    )


def _write(path: Path, text: str) -> None:
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(text.encode())


def _pack(data_dir: Path, path: Path) -> None:
    """All of DATA_DIR but the database and what is made anew."""

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(info.name).parts
        if LEFT_OUT & set(parts) or ".sqlite3" in info.name or info.name.endswith(".exchange"):
            return None
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    with tarfile.open(path, "w:gz") as archive:
        archive.add(data_dir, arcname=".", filter=wanted)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    finally:
        shutil.rmtree(environment.DATA_DIR)
