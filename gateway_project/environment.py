"""Reads the process environment, all of it here: a wrong value stops the start and says why.

A variable that is set and empty counts as unset: compose files and CI hand on what nobody filled in.
"""

import contextlib
import ipaddress
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import environ
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

SHORTEST_SECRET = 24  # characters; what is guessed over the network must not be guessable
ENGINES = ("django.db.backends.sqlite3", "django.db.backends.postgresql")
YES, NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class _Filled(Mapping[str, str]):
    """What of the environment is not empty, as it is at the moment."""

    def __getitem__(self, name: str) -> str:
        if value := os.environ[name].strip():
            return value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, value in os.environ.items() if value.strip())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Environment(environ.Env):
    ENVIRON = _Filled()

    def str(self, var: str, default: str = "") -> str:
        """As it stands: a secret that begins with $ names no other variable."""
        return self.ENVIRON.get(var, default)


env = _Environment()


def choose_settings() -> None:
    """For what starts a process: the settings module, also where the variable is set and empty."""
    os.environ["DJANGO_SETTINGS_MODULE"] = env.str("DJANGO_SETTINGS_MODULE", "gateway_project.settings")


def say_refusals_plainly() -> None:
    """A setting that stops the start is one sentence on standard error, in whichever process."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, ImproperlyConfigured):
            print(error, file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def choice(name: str, allowed: tuple[str, ...], default: str) -> str:
    value = env.str(name, default)
    if value not in allowed:
        raise ImproperlyConfigured(f"{name} is {value!r}; allowed are {', '.join(allowed)}.")
    return value


def flag(name: str, default: bool) -> bool:
    text = env.str(name, str(default)).lower()
    if text not in (*YES, *NO):
        raise ImproperlyConfigured(f"{name} is {text!r}; allowed are {', '.join((*YES, *NO))}.")
    return text in YES


def whole_number(name: str, default: int, lowest: int, highest: int) -> int:
    text = env.str(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and lowest <= int(text) <= highest):
        raise ImproperlyConfigured(
            f"{name} is {text!r}; allowed are whole numbers from {lowest} to {highest}."
        )
    return int(text)


def line(name: str, *, longest: int) -> str:
    """A line of text, or ""."""
    text = env.str(name)
    if len(text) > longest or not text.isprintable():
        raise ImproperlyConfigured(f"{name} must be one line of at most {longest} characters.")
    return text


def words(name: str, default: tuple[str, ...] = ()) -> list[str]:
    """A comma-separated list; blanks around the words are dropped."""
    text = env.str(name, ",".join(default))
    return [word.strip() for word in text.split(",") if word.strip()]


def networks(name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """A comma-separated list of addresses and networks, such as 10.0.0.0/8."""
    try:
        return [ipaddress.ip_network(word) for word in words(name)]
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{name} holds something else than addresses and networks: {error}."
        ) from None


def address(name: str, *schemes: str) -> str:
    """The address of a server, or "". Never shown where it is wrong: it may hold a password."""
    value = env.str(name)
    try:
        parts = urlsplit(value)
        fits = parts.scheme in schemes and bool(parts.hostname or parts.path) and parts.port != 0
    except ValueError:
        fits = False
    if value and not fits:
        allowed = " and ".join(f"{scheme}://" for scheme in schemes)
        raise ImproperlyConfigured(f"{name} can't be read; allowed are addresses with {allowed}.")
    return value


def database(name: str, default: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = env.db_url_config(env.str(name, default))
        fits = found["ENGINE"] in ENGINES
    except (ImproperlyConfigured, KeyError, ValueError):
        fits = False
    if not fits:
        raise ImproperlyConfigured(
            f"{name} can't be read; allowed are addresses such as postgres://user:password@host/name "
            "and sqlite:////path/of/the/file."
        )
    return found


def mail_server(name: str) -> dict[str, Any]:
    """Django's settings for sending mail; none where the variable is not set."""
    if not (value := env.str(name)):
        return {}
    try:
        found = dict(env.email_url_config(value))
    except (ImproperlyConfigured, KeyError, ValueError):
        raise ImproperlyConfigured(
            f"{name} can't be read; allowed are addresses such as "
            "smtp+tls://user:password@mail.example.com:587."
        ) from None
    if found["EMAIL_BACKEND"].endswith("smtp.EmailBackend"):
        found["EMAIL_BACKEND"] = "monitoring.alerts.channels.smtp.CheckedEmailBackend"
    return found


def directory(name: str, default: Path) -> Path:
    """A directory for what only its owner may read; made where it is missing.

    From here on every file that this process makes is its owner's alone.
    """
    os.umask(0o077)
    path = Path(env.str(name, str(default))).expanduser().resolve()
    make_directory(path, name)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ImproperlyConfigured(f"{name}={path} can't be written by this user; choose another directory.")
    return path


def make_directory(path: Path, name: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ImproperlyConfigured(f"{name}: {path} can't be made: {error.strerror}.") from None


PRIVATE = (
    "127.0.0.0/8",
    "::1/128",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "198.18.0.0/15",
    "fc00::/7",
)
"""Loopback, private networks, and what overlay networks and tunnels hand out."""


def reachable(name: str, default: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """Networks that are not public and may be connected to; `private` stands for the usual ones."""
    said = words(name) or [default]
    if "none" in said:
        if said != ["none"]:
            raise ImproperlyConfigured(f"{name}: none stands alone, or not at all.")
        return []
    listed = [network for word in said for network in (PRIVATE if word == "private" else (word,))]
    try:
        return [ipaddress.ip_network(word) for word in listed]
    except ValueError as error:
        raise ImproperlyConfigured(
            f"{name}: {error}. Allowed are none, private, addresses and networks such as 10.0.0.0/8."
        ) from None


def secret(name: str, data_dir: Path, *, embedded: bool) -> str:
    """The secret from the environment, or in embedded mode one generated once into DATA_DIR.

    Raises ImproperlyConfigured where replicas would each generate their own.
    """
    if value := long_secret(name, embedded=embedded):
        return value
    if not embedded:
        raise ImproperlyConfigured(
            f"{name} must be set where DATABASE_URL or REDIS_URL is set: all processes need the same one."
        )
    return _generated(name, data_dir)


def long_secret(name: str, *, embedded: bool) -> str:
    """The secret from the environment, or "". Short ones serve on one's own machine only."""
    value = env.str(name)
    if value and len(value) < SHORTEST_SECRET and not embedded:
        raise ImproperlyConfigured(
            f"{name} has {len(value)} characters; where DATABASE_URL or REDIS_URL is set it needs "
            f"{SHORTEST_SECRET}. This makes one: "
            'python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return value


def fernet_keys(name: str, text: str) -> list[str]:
    """Raises where one of them is none: a credential that can't be encrypted is found out too late."""
    keys = [key.strip() for key in text.split(",") if key.strip()]
    for number, key in enumerate(keys, 1):
        try:
            Fernet(key)
        except ValueError:
            raise ImproperlyConfigured(
                f"{name}: number {number} is no Fernet key. This makes one: "
                'python3 -c "import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())"'
            ) from None
    return keys


def _generated(name: str, data_dir: Path) -> str:
    file = data_dir / f"{name.lower()}.secret"
    try:
        with contextlib.suppress(FileExistsError), open(file, "x") as new:  # there from an earlier start
            new.write(
                Fernet.generate_key().decode() if name == "ENCRYPTION_KEYS" else secrets.token_urlsafe(50)
            )
        return file.read_text().strip()
    except OSError as error:
        raise ImproperlyConfigured(f"{file} can't be used: {error.strerror}.") from None
