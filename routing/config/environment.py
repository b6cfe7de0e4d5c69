"""References to the environment in a file's texts: `os.environ/NAME`, `${NAME}` and `${NAME:-default}`.

One more dollar sign makes a reference literal text: `$${NAME}` stands for `${NAME}`, and
`$os.environ/NAME` for `os.environ/NAME`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_WHOLE = re.compile(r"os\.environ/(?P<name>.*)", re.DOTALL)
_LITERAL_WHOLE = re.compile(r"\$+os\.environ/.*", re.DOTALL)
_INSIDE = re.compile(
    r"\$(?P<literal>\$+\{)|\$\{(?P<name>[^}:-]*)(?::?-(?P<default>[^}]*))?(?P<rest>[^}]*)(?P<end>\}?)"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


OWN_SECRETS = frozenset({"MASTER_KEY", "SECRET_KEY", "ENCRYPTION_KEYS"})
"""The gateway's own: as a provider's credential one would be sent to whoever that provider is."""


_hidden: ContextVar[bool] = ContextVar("no variable may be read", default=False)


@contextmanager
def nothing_set() -> Iterator[None]:
    """For a file of somebody who has no access to the process: it could send a variable anywhere."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def get(name: str) -> str:
    """Empty where it is not set."""
    return "" if _hidden.get() else os.environ.get(name, "")


class NotSet(Exception):
    """A variable is not set, or empty."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.remedy = "set it where the gateway runs, then load the file again"
        if _hidden.get():
            self.remedy = (
                "write it in the file, enter it in the admin, or load the file with manage.py load_config"
            )
            super().__init__(f"the environment variable {name} is not read for a file that is uploaded")
        else:
            super().__init__(f"the environment variable {name} is not set")


class OwnSecret(Exception):
    """A reference to one of the gateway's own secrets, where none may stand."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is the gateway's own secret; it may stand for master_key only")


class BadReference(Exception):
    """A reference that names no variable."""


def expand(text: str) -> str:
    """The text with its references replaced. Raises NotSet or BadReference."""
    if whole := _WHOLE.fullmatch(text):
        return _variable(whole["name"])
    if _LITERAL_WHOLE.fullmatch(text):
        text = text[1:]
    return _INSIDE.sub(_replace, text)


def _replace(reference: re.Match[str]) -> str:
    if reference["literal"]:
        return reference["literal"]
    if not reference["end"] or reference["rest"]:
        raise BadReference
    return _variable(reference["name"], reference["default"])


def _variable(name: str, default: str | None = None) -> str:
    if not _NAME.fullmatch(name):
        raise BadReference
    value = get(name)
    if value:
        return value
    if default is None:
        raise NotSet(name)
    return default


def expand_all(value: Any, *, own_secrets: bool = False) -> Any:
    """`expand` for every text inside, keys excepted. Raises OwnSecret unless those are allowed."""
    if not own_secrets:
        _each_text(value, _look_for_own_secrets)
    return _each_text(value, expand)


def _look_for_own_secrets(text: str) -> str:
    whole = _WHOLE.fullmatch(text)
    names = {whole["name"]} if whole else {found["name"] for found in _INSIDE.finditer(text)}
    for name in OWN_SECRETS & names:
        raise OwnSecret(name)
    return text


def escape_all(value: Any) -> Any:
    """What `expand_all` turns back into the value."""
    return _each_text(value, _escape)


def _escape(text: str) -> str:
    text = re.sub(r"\$+\{", lambda match: f"${match[0]}", text)
    if _WHOLE.fullmatch(text) or _LITERAL_WHOLE.fullmatch(text):
        return f"${text}"
    return text


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    return value
