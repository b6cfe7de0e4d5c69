"""What a start says, and what keeps one from starting: one sentence each, and nothing else."""

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from gateway_project import before_start, greeting
from tests import plain
from tests.live import ROOT, free_port, is_free, until
from tests.served import OURS, Served

SERVE = ("manage.py", "serve")
WEB_ONLY = (*SERVE, "--web-only")
FERNET = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
LONG = "a-secret-of-more-than-24-characters"


def run(*command: str, data_dir: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=kept | {"DATA_DIR": str(data_dir)} | env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that it ended with."""
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    return line.removeprefix("CommandError: ")


ENTRIES = {
    "serve": SERVE,
    "web only": WEB_ONLY,
    "a command of ours": ("manage.py", "create_key", "x"),
    "a command of Django's": ("manage.py", "migrate"),
    "the web process": ("-m", "gateway_project.web"),
    "a worker": ("-m", "celery", "--app=gateway_project", "worker"),
    "a beat": ("-m", "celery", "--app=gateway_project", "beat"),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_wrong_setting_is_one_sentence_whatever_is_started(entry: str, tmp_path: Path) -> None:
    said = refused(run(*ENTRIES[entry], data_dir=tmp_path, PORT="abc"))
    assert said == "PORT is 'abc'; allowed are whole numbers from 1 to 65535."


@pytest.mark.parametrize("entry", ["serve", "a command of ours", "the web process"])
@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_data_dir_that_cannot_be_used_is_one_sentence(entry: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused(run(*ENTRIES[entry], data_dir=tmp_path / place))
    assert said.startswith(f"DATA_DIR: {tmp_path / place} can't be made: ")


def readable_by_all(path: Path) -> bool:
    return all(place.stat().st_mode & 0o005 == 0o005 for place in (path, *path.parents))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a directory of another user")
@pytest.mark.skipif(
    not all(map(readable_by_all, (Path(sys.base_prefix), Path(sys.prefix), ROOT))),
    reason="another user could not read this Python",
)
def test_a_data_dir_of_another_user_is_one_sentence() -> None:
    code = "import os, gateway_project; os.setuid(65534); from django.conf import settings; settings.PORT"
    said = refused(run("-c", code, data_dir=Path("/usr")))
    assert said == "DATA_DIR=/usr can't be written by this user; choose another directory."


WRONG = {
    "DATABASE_URL": "postgres://user:hidden-password@host:port/name",
    "REDIS_URL": "hidden-password@localhost:6379",
    "EMAIL_URL": "hidden-password",
    "SENTRY_DSN": "hidden-password",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "hidden-password:4318",
    "ENCRYPTION_KEYS": "hidden-password-hidden-password",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_address_is_named_and_never_shown(name: str, tmp_path: Path) -> None:
    secrets = {"SECRET_KEY": LONG, "ENCRYPTION_KEYS": FERNET}
    said = refused(run("manage.py", "check", data_dir=tmp_path, **secrets | {name: WRONG[name]}))
    assert said.startswith(name)
    assert "hidden-password" not in said


def settings_that_are_read() -> list[str]:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "settings.md").read_text(), re.MULTILINE)
    return [*rows, "DJANGO_SETTINGS_MODULE"]


def test_every_setting_that_is_set_and_empty_counts_as_unset(tmp_path: Path) -> None:
    code = (
        "import gateway_project; from django.conf import settings\n"
        "kept = {n: getattr(settings, n) for n in dir(settings) if n.isupper() and n != 'UNFOLD'}\n"
        "print({n: str(v) for n, v in kept.items() if isinstance(v, (str, int, list, dict))})"
    )
    names = [name for name in settings_that_are_read() if name != "DATA_DIR"]
    without = f"import os; [os.environ.pop(name, None) for name in {names}]\n"
    unset = run("-c", without + code, data_dir=tmp_path)
    assert unset.returncode == 0, unset.stderr
    for empty in ("", " "):
        done = run("-c", code, data_dir=tmp_path, **dict.fromkeys(names, empty))
        assert done.stdout == unset.stdout, done.stderr


def test_a_secret_that_begins_with_a_dollar_sign_stands_for_itself(tmp_path: Path) -> None:
    code = "import gateway_project; from django.conf import settings; print(settings.SECRET_KEY)"
    assert run("-c", code, data_dir=tmp_path, SECRET_KEY="$HOME").stdout == "$HOME\n"


@pytest.mark.parametrize("name", ["MASTER_KEY", "SECRET_KEY"])
@pytest.mark.parametrize("mode", ["DATABASE_URL", "REDIS_URL"])
def test_a_secret_that_can_be_guessed_is_refused_where_others_are_served(
    name: str, mode: str, tmp_path: Path
) -> None:
    addresses = {"DATABASE_URL": f"sqlite:///{tmp_path}/x.sqlite3", "REDIS_URL": "redis://127.0.0.1:1"}
    env = {mode: addresses[mode], "SECRET_KEY": LONG, "ENCRYPTION_KEYS": FERNET}
    said = refused(run("manage.py", "check", data_dir=tmp_path, **env | {name: "x" * 23}))
    assert said.startswith(f"{name} has 23 characters; ")
    assert "secrets.token_urlsafe(32)" in said
    assert run("manage.py", "check", data_dir=tmp_path, **env | {name: "x" * 24}).returncode == 0


def test_a_short_secret_serves_on_ones_own_machine(tmp_path: Path) -> None:
    assert run("manage.py", "check", data_dir=tmp_path, MASTER_KEY="x", SECRET_KEY="x").returncode == 0


@pytest.mark.parametrize("command", [SERVE, WEB_ONLY])
def test_a_second_start_on_one_data_dir_is_told_of_the_first(
    command: tuple[str, ...], start: Callable[..., Served]
) -> None:
    served = start()
    assert served.process is not None
    said = refused(run(*command, data_dir=served.data_dir, PORT=str(free_port())))
    assert f"already running here as process {served.process.pid} on port {served.port}" in said
    assert served.ask().status_code == 200


def test_commands_work_beside_a_gateway_that_runs(start: Callable[..., Served]) -> None:
    served = start()
    done = run("manage.py", "create_key", "beside", data_dir=served.data_dir)
    assert "\nsk-" in done.stdout, done.stderr


@pytest.mark.usefixtures("migrated")
def test_a_lock_that_a_dead_process_left_is_none(start: Callable[..., Served]) -> None:
    first = start()
    assert first.process is not None
    ours = first.processes()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(10)
    for number in ours:
        if number in first.processes():
            os.kill(number, signal.SIGKILL)
    # The number of a process that lives, as where a dead one's was given to another: it decides nothing.
    (first.data_dir / before_start.LOCK).write_text(f"{os.getpid()} 4000\n")
    assert start().ready()


@pytest.mark.usefixtures("migrated")
def test_a_web_process_alone_holds_the_lock_for_as_long_as_it_lives(tmp_path: Path) -> None:
    data_dir, port = tmp_path / "data", free_port()
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    alone = subprocess.Popen(
        [sys.executable, *WEB_ONLY],
        cwd=ROOT,
        env=env | {"DATA_DIR": str(data_dir), "PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/health/liveliness"
        until(lambda: answers(url), "the web process answers", 120)
        said = refused(run(*SERVE, data_dir=data_dir, PORT=str(free_port())))
        assert f"already running here as process {alone.pid} on port {port}" in said
        alone.send_signal(signal.SIGKILL)
        alone.wait(10)
        # Its shipper may live on for a moment, to ship what is left: it holds no lock.
        with open(data_dir / before_start.LOCK) as lock:
            assert is_free(lock)
    finally:
        alone.kill()
        alone.wait(10)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return plain.get(url).status_code == 200
    return False


def test_several_web_processes_with_redis_share_a_data_dir(tmp_path: Path) -> None:
    """As before: what they would count twice is in Redis. Here the first one's lock is just looked for."""
    code = "from gateway_project import before_start as b; b.look(web_only=True); print(b._held)"
    env = {"REDIS_URL": "redis://127.0.0.1:1", "SECRET_KEY": LONG, "ENCRYPTION_KEYS": FERNET}
    assert run("-c", code, data_dir=tmp_path, **env, PORT=str(free_port())).stdout == "[]\n"


def test_a_taken_port_is_said_before_anything_is_made(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for command in (SERVE, WEB_ONLY):
            said = refused(run(*command, data_dir=tmp_path / "data", PORT=str(port)))
            assert said.startswith(f"Port {port} is taken.")
    assert not (tmp_path / "data" / "switchstand.sqlite3").exists()


class Terminal:
    """A command that writes to a terminal."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        self.output = ""
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        try:
            while part := os.read(ours, 4096):
                self.output += part.decode().replace("\r\n", "\n")
        except OSError:  # the last of those that wrote has ended
            pass
        finally:
            os.close(ours)

    def end(self, sign: int) -> int:
        """By a signal to all that run in the foreground, as a terminal sends it."""
        os.killpg(self.process.pid, sign)
        code = self.process.wait(15)
        self._reader.join(5)
        return code


@pytest.mark.usefixtures("migrated")
def test_a_terminal_shows_one_box_and_then_nothing(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Not as a part of another make, which says where it goes.
    env = {name: value for name, value in os.environ.items() if name not in {*OURS, "MAKELEVEL", "MAKEFLAGS"}}
    env |= {"DATA_DIR": str(tmp_path / "data"), "PORT": str(port)}
    terminal = Terminal(["make", "serve", "-o", ".venv/installed"], env)
    try:
        until(lambda: terminal.output.count(greeting.RULE) == 2, lambda: terminal.output, 120)
        box = terminal.output
        assert box.startswith(f"\n{greeting.RULE}\nReady:    http://localhost:{port} ")
        assert f"\nAdmin:    http://localhost:{port}/admin/\nUser:     admin\nPassword: " in box
        assert "\nKey:      sk-" in box
        assert "\ncurl " in box
        for path in ("/nothing", "/admin/", "/admin/login/", "/static/unfold/css/styles.css"):
            plain.get(url + path)
    finally:
        terminal.end(signal.SIGINT)
    # A terminal shows ^C itself; make has nothing to say, and neither has anyone else.
    assert terminal.output == box
    assert not (tmp_path / "data" / greeting.SECRETS_FILE).exists()


def test_what_is_no_terminal_gets_no_secret(served_once: Served) -> None:
    assert served_once.password
    for secret in (served_once.password, served_once.key):
        assert secret not in served_once.output
    file = served_once.data_dir / greeting.SECRETS_FILE
    assert str(file) in served_once.output
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def served_once(start: Callable[..., Served], migrated: Path) -> Served:
    return start()


def test_first_run_alone_tells_its_secrets_to_a_file_too(tmp_path: Path) -> None:
    run("manage.py", "migrate", data_dir=tmp_path / "data")
    done = run("manage.py", "first_run", data_dir=tmp_path / "data")
    assert done.returncode == 0, done.stderr
    kept = (tmp_path / "data" / greeting.SECRETS_FILE).read_text()
    password = re.search(r"^Password: (\S+)$", kept, re.MULTILINE)
    assert password
    assert password[1] not in done.stdout
    assert str(tmp_path / "data" / greeting.SECRETS_FILE) in done.stdout


@pytest.mark.usefixtures("migrated")
def test_a_start_that_never_serves_tells_its_secrets_all_the_same(begin: Callable[..., Served]) -> None:
    served = begin(UPSTREAM_TRANSPORT="fast")
    until(lambda: len(served.processes()) > 1, "the parts start", 120)
    served.stop()
    assert served.password


@pytest.mark.usefixtures("migrated")
def test_a_data_dir_that_others_may_enter_is_warned_of(start: Callable[..., Served], tmp_path: Path) -> None:
    (tmp_path / "data").chmod(0o755)
    served = start()
    assert (
        f"WARNING: others may enter DATA_DIR, which holds keys and prompts: chmod 700 {tmp_path}"
        in served.output
    )
    served.stop()
    (tmp_path / "data").chmod(0o700)
    assert "WARNING" not in start().output
