"""`make` installs with uv, which is told what pip was told of the network; pip takes over where uv fails."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.live import ROOT, free_port

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: by-hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(directory: Path, name: str) -> Path:
    """A package of one module."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "FOUND = True\n",
        f"{info}/METADATA": METADATA.format(name=name),
        f"{info}/WHEEL": WHEEL,
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    made = directory / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)
    return made


@dataclass
class Index:
    """A package index on loopback that remembers who asked; as a proxy it is asked for whole addresses."""

    directory: Path
    files: dict[str, Path] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, user agent

    def __post_init__(self) -> None:
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.head()
                index.asked.append((self.path, self.headers["user-agent"] or ""))
                self.wfile.write(body)

            def do_HEAD(self) -> None:
                self.head()

            def head(self) -> bytes:
                body, kind = index.answer(self.path)
                self.send_response(200 if body else 404)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                return body

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple"

    def answer(self, path: str) -> tuple[bytes, str]:
        last = path.rstrip("/").rpartition("/")[2].replace("%2D", "-")
        if path.endswith(".whl"):
            return self.files[last].read_bytes(), "application/octet-stream"
        names = [name for name in self.files if name.startswith(f"{last.replace('-', '_')}-")]
        return "".join(f'<a href="/files/{name}">{name}</a>' for name in names).encode(), "text/html"

    def add(self, name: str) -> Path:
        made = wheel(self.directory, name)
        self.files[made.name] = made
        return made

    def downloaded_by(self) -> set[str]:
        return {agent.partition("/")[0] for path, agent in self.asked if path.endswith(".whl")}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make` leaves it, with uv: what is tried is what uv and pip are told."""
    directory = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    ours, theirs = Path(sys.prefix), next(directory.glob("lib/python*/site-packages"))
    for found in (ours / theirs.relative_to(directory)).glob("uv[-_.0-9]*"):
        shutil.copytree(found, theirs / found.name)
    shutil.copytree(ours / theirs.relative_to(directory) / "uv", theirs / "uv", dirs_exist_ok=True)
    os.link(ours / "bin" / "uv", directory / "bin" / "uv")
    return directory


@pytest.fixture
def install(environment: Path, tmp_path: Path) -> Callable[..., "Done"]:
    """Installs one package by its hash, with pip's and uv's settings as given and no others."""
    for name in ("install.py", "requirements-uv.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def run(made: Path, python: Path = environment, *, wrong: bool = False, **env: str) -> Done:
        digest = hashlib.sha256(b"another" if wrong else made.read_bytes()).hexdigest()
        name = made.name.partition("-")[0]
        (tmp_path / "wanted.txt").write_text(f"{name}==1.0 --hash=sha256:{digest}\n")
        ours = re.compile("(pip|uv)_.*|.*_proxy|ssl_cert_.*", re.IGNORECASE)
        kept = {key: value for key, value in os.environ.items() if not ours.fullmatch(key)}
        nowhere = {"HOME": str(tmp_path), "UV_NO_CONFIG": "1", "UV_CACHE_DIR": str(tmp_path / "cache")}
        if "PIP_CONFIG_FILE" not in env:
            nowhere["PIP_CONFIG_FILE"] = os.devnull
        done = subprocess.run(
            [python / "bin" / "python", tmp_path / "install.py", tmp_path / "wanted.txt"],
            env=kept | nowhere | {"PIP_RETRIES": "0", "PIP_NO_CACHE_DIR": "1"} | env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        check = f"import {name}; print({name}.FOUND, {name}.__cached__)"
        there = subprocess.run([python / "bin" / "python", "-c", check], capture_output=True, text=True)
        return Done(done.returncode, done.stderr, there.stdout)

    return run


@dataclass
class Done:
    status: int
    said: str
    found: str

    @property
    def installed(self) -> bool:
        return self.found.startswith("True")


def test_uv_takes_pips_index_from_its_variable(install: Callable[..., Done], index: Index) -> None:
    done = install(index.add("from_variable"), PIP_INDEX_URL=index.url)
    assert (done.status, done.said, done.installed) == (0, "", True)
    assert index.downloaded_by() == {"uv"}


@pytest.mark.parametrize("section", ["global", "install"])
def test_uv_takes_pips_index_from_its_file(
    section: str, install: Callable[..., Done], index: Index, tmp_path: Path
) -> None:
    (tmp_path / "pip.conf").write_text(f"[{section}]\nindex-url = {index.url}\n")
    done = install(index.add(f"from_{section}"), PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert (done.status, done.said, done.installed) == (0, "", True)
    assert index.downloaded_by() == {"uv"}


def test_uv_takes_pips_extra_index_though_the_first_knows_the_name(
    install: Callable[..., Done], index: Index, tmp_path: Path
) -> None:
    (tmp_path / "first").mkdir()
    first = Index(tmp_path / "first")
    other = first.add("from_extra")
    with zipfile.ZipFile(other, "a") as archive:
        archive.writestr("more.py", "")  # another file of the same name, as a squatter's
    done = install(index.add("from_extra"), PIP_INDEX_URL=first.url, PIP_EXTRA_INDEX_URL=index.url)
    first.server.shutdown()
    first.server.server_close()
    assert done.installed, done.said
    assert first.downloaded_by() | index.downloaded_by() <= {"uv", "pip"}


def test_uv_takes_pips_find_links_without_an_index(install: Callable[..., Done], index: Index) -> None:
    made = index.add("from_links")
    done = install(made, PIP_FIND_LINKS=str(made.parent), PIP_NO_INDEX="1")
    assert (done.status, done.said, done.installed) == (0, "", True)
    assert index.asked == []


def test_uv_takes_pips_proxy(install: Callable[..., Done], index: Index) -> None:
    url = "http://index.test/simple"
    done = install(index.add("from_proxy"), PIP_INDEX_URL=url, PIP_PROXY=f"http://127.0.0.1:{index.port}")
    assert (done.status, done.said, done.installed) == (0, "", True)
    assert [path for path, _ in index.asked if not path.startswith("http://index.test/")] == []


def test_uv_takes_pips_certificate(install: Callable[..., Done], index: Index, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_context("localhost")
    index.server.socket = context.wrap_socket(index.server.socket, server_side=True)
    url = f"https://localhost:{index.port}/simple"
    done = install(index.add("from_tls"), PIP_INDEX_URL=url, PIP_CERT=str(authority.file))
    assert (done.status, done.said, done.installed) == (0, "", True)
    assert index.downloaded_by() == {"uv"}


def test_what_uv_installs_is_compiled(install: Callable[..., Done], index: Index) -> None:
    done = install(index.add("compiled"), PIP_INDEX_URL=index.url, PYTHONDONTWRITEBYTECODE="1")
    assert Path(done.found.split()[1]).exists()


@pytest.fixture
def without_uv(environment: Path, tmp_path: Path) -> Path:
    """uv can't be run, as on a machine that it has no file for."""
    other = tmp_path / "other"
    shutil.copytree(environment, other, symlinks=True)
    (other / "bin" / "uv").unlink()
    (other / "bin" / "uv").write_text("#!/bin/sh\necho 'error: this is no machine for me' >&2\nexit 2\n")
    (other / "bin" / "uv").chmod(0o755)
    return other


def test_pip_takes_over_where_uv_fails_and_one_line_says_so(
    install: Callable[..., Done], index: Index, without_uv: Path
) -> None:
    done = install(index.add("by_pip"), without_uv, PIP_INDEX_URL=index.url)
    assert (done.status, done.installed) == (0, True), done.said
    [line] = done.said.splitlines()
    assert "(error: this is no machine for me); pip does, which takes minutes." in line
    assert index.downloaded_by() == {"pip"}


def test_pip_takes_over_where_uv_cannot_be_fetched(
    install: Callable[..., Done], index: Index, environment: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(environment, other, symlinks=True)
    for found in next(other.glob("lib/python*/site-packages")).glob("uv*"):
        shutil.rmtree(found)
    done = install(index.add("no_uv_there"), other, PIP_INDEX_URL=index.url)
    assert (done.status, done.installed) == (0, True), done.said
    [line] = done.said.splitlines()
    assert "pip could not fetch it: " in line


def test_a_file_with_another_hash_is_installed_by_neither(install: Callable[..., Done], index: Index) -> None:
    done = install(index.add("another_hash"), PIP_INDEX_URL=index.url, wrong=True)
    assert done.status != 0
    assert not done.installed
    assert "hash" in done.said.lower()


def test_no_index_that_can_be_reached_is_said(install: Callable[..., Done], index: Index) -> None:
    done = install(index.add("unreachable"), PIP_INDEX_URL=f"http://127.0.0.1:{free_port()}/simple")
    assert done.status != 0
    assert "No package index can be reached." in done.said
    assert "Traceback" not in done.said
