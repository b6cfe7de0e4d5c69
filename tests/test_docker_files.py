"""What can be checked of docker/ without an engine; docker/README.md says what was run by hand."""

import ast
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from tests.live import until
from tests.optional import needs
from tests.services import RedisServer, scratch

ROOT = Path(__file__).resolve().parent.parent
APPS = ("gateway_project", "routing", "proxy", "monitoring")
# Set by Docker or read by Python and Django, not by our settings.
NOT_OURS = {"DJANGO_SETTINGS_MODULE", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
READERS = {
    *("str", "flag", "choice", "whole_number", "words", "networks", "reachable"),
    *("address", "database", "directory", "mail_server", "secret", "long_secret"),
}


def dockerfile() -> list[tuple[str, str]]:
    """Its instructions, each with its arguments on one line."""
    text = (ROOT / "docker/Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], " ".join(line.split()[1:])) for line in lines]


def only(instruction: str) -> str:
    [arguments] = [text for name, text in dockerfile() if name == instruction]
    return arguments


def copied() -> list[str]:
    """The paths of the project that the image gets."""
    lines = [text.split() for name, text in dockerfile() if name == "COPY" and not text.startswith("--from")]
    return [path for words in lines for path in words[:-1]]


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    return found


OURS = ("setup", "web", "worker", "beat")


def names_that_settings_read() -> set[str]:
    return {name for app in APPS for file in (ROOT / app).rglob("*.py") for name in _read_in(file)}


def _read_in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = (
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
            name = node.args[0].value
            if function in READERS and isinstance(name, str) and re.fullmatch("[A-Z][A-Z0-9_]+", name):
                yield name


def test_image_runs_as_a_user_that_is_not_root() -> None:
    user, _, group = only("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_image_listens_on_port_4000_and_checks_health_as_specified() -> None:
    assert only("EXPOSE") == "4000"
    check = only("HEALTHCHECK")
    assert check.startswith("--interval=30s --timeout=3s --start-period=5s --retries=3 CMD")
    assert "/health'" in check


def test_image_has_a_python_that_the_project_supports() -> None:
    bases = [text for name, text in dockerfile() if name == "FROM" and text.startswith("python:")]
    versions = [re.match(r"python:3\.(\d+)-slim", base) for base in bases]
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    lowest, below = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", supported).groups()  # type: ignore[union-attr]
    assert versions
    assert all(version and int(lowest) <= int(version[1]) < int(below) for version in versions)


def test_image_installs_only_what_the_hashes_pin() -> None:
    [install] = [text for name, text in dockerfile() if name == "RUN" and "pip install" in text]
    assert "--require-hashes" in install
    assert install.endswith("--requirement /tmp/requirements.txt")


def test_docker_ignore_lets_through_just_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied())


def test_copied_files_are_enough_to_migrate(tmp_path: Path) -> None:
    image = tmp_path / "app"
    image.mkdir()
    for name in copied():
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, image / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, image)
    env = {"DATA_DIR": str(tmp_path / "data"), "PATH": "/usr/bin:/bin", "HOST": "0.0.0.0", "PORT": "4000"}
    for command in (["check"], ["migrate", "--noinput"]):
        done = subprocess.run(
            [sys.executable, "manage.py", *command], cwd=image, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_variable_of_the_docker_files_is_one_that_settings_read() -> None:
    named = {name for service in OURS for name in services()[service].get("environment", {})}
    named |= {pair.partition("=")[0] for pair in only("ENV").split()}
    assert named - NOT_OURS <= names_that_settings_read()


def test_compose_has_every_part_and_one_web_port() -> None:
    assert set(services()) == {*OURS, "postgres", "redis"}
    assert [name for name, service in services().items() if "ports" in service] == ["web"]
    assert services()["web"]["ports"][0].endswith(":4000")


@pytest.mark.parametrize("name", ["SECRET_KEY", "ENCRYPTION_KEYS", "DATABASE_URL", "REDIS_URL"])
def test_compose_has_no_default_for_secrets(name: str) -> None:
    for service in OURS:
        assert re.search(r"\$\{[A-Z_]+:\?", services()[service]["environment"][name])


def test_nothing_of_ours_starts_before_the_setup_has_ended() -> None:
    for service in ("web", "worker", "beat"):
        assert services()[service]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}
    for server in ("postgres", "redis"):
        assert services()["setup"]["depends_on"][server] == {"condition": "service_healthy"}
        assert "healthcheck" in services()[server]


def test_volumes_keep_the_journal_and_the_databases() -> None:
    assert "data:/data" in services()["web"]["volumes"]
    assert services()["postgres"]["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert services()["redis"]["volumes"] == ["redis:/data"]


def test_processes_of_compose_are_those_of_make_serve() -> None:
    procfile = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines() if line)
    for service in ("worker", "beat"):
        assert " ".join(services()[service]["command"]) == procfile[service]
    command = only("CMD").translate(str.maketrans("", "", '[],"'))
    assert command == procfile["web"]


@needs("Redis")
def test_redis_of_compose_asks_for_a_password_that_no_command_line_shows() -> None:
    service = services()["redis"]
    assert ":?" in service["environment"]["REDISCLI_AUTH"]
    password = "0123456789abcdef"
    with scratch("redis") as directory:
        server = RedisServer(directory)
        (entry := Path(directory) / "docker-entrypoint.sh").write_text('#!/bin/sh\nexec "$@"\n')
        entry.chmod(0o755)  # the image's own, which becomes the user redis first
        path = f"{directory}:{os.environ['PATH']}"
        options = f" --port {server.port} --bind 127.0.0.1 --save ''"
        shell = service["command"][2].replace("$$", "$") + options
        process = subprocess.Popen(
            ["sh", "-ec", shell], cwd=directory, env=os.environ | {"REDISCLI_AUTH": password, "PATH": path}
        )
        try:
            link = redis.Redis(port=server.port, password=password)
            until(lambda: answers(link), "Redis answers with the password")
            with pytest.raises(redis.AuthenticationError):
                redis.Redis(port=server.port).ping()
            assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        finally:
            with contextlib.suppress(redis.RedisError):
                redis.Redis(port=server.port, password=password).shutdown(nosave=True)
            process.wait(10)


def answers(link: "redis.Redis") -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(link.ping())
    return False
