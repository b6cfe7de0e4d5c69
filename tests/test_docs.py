"""Documents say what the code does: settings, configuration file."""

import ast
import re
from pathlib import Path

import pytest

from routing.config import file_doc, reader
from routing.config.model_list import REQUEST_PARAMETERS
from routing.config.report import Notes
from routing.config.section import Section

ROOT = Path(__file__).resolve().parent.parent
READERS = {
    "line",
    *("str", "flag", "choice", "whole_number", "words", "networks", "reachable"),
    *("address", "database", "directory", "mail_server", "secret", "long_secret"),
}
ROW = re.compile(r"^\| `([A-Z_]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def read_settings():
    """name -> the calls in settings.py that read it."""
    found = {}
    for node in ast.walk(ast.parse((ROOT / "gateway_project" / "settings.py").read_text())):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in READERS:
                found.setdefault(node.args[0].value, []).append((name, node))
    return found


def default_of(kind, call):
    """The default as the document shows it; None where it depends on other settings."""
    if kind == "address":  # its other arguments are what is allowed
        return "none"
    given = call.args[1:2] + [word.value for word in call.keywords if word.arg == "default"]
    try:
        value = eval(compile(ast.Expression(given[0]), "", "eval"), {"__builtins__": {}}) if given else ""
    except NameError:
        return None
    if kind == "secret":
        return None
    if isinstance(value, tuple):
        value = ",".join(value)
    if kind == "choice":
        value = next(word.value.value for word in call.keywords if word.arg == "default")
    return f"`{value}`" if value != "" else "none"


def test_every_setting_is_described_with_its_default():
    described = {
        name: default for name, default, _ in ROW.findall((ROOT / "docs" / "settings.md").read_text())
    }
    settings = read_settings()
    assert set(described) == set(settings)
    assert len(settings) > 20
    for name, calls in settings.items():
        wanted = {default_of(kind, call) for kind, call in calls} - {None}
        if name not in ("DATABASE_URL", "DATA_DIR"):
            assert wanted <= {described[name]}, name


@pytest.fixture
def asked(monkeypatch):
    """The keys that a reading asks for."""
    names = set()
    for method in ("raw", "is_null"):
        original = getattr(Section, method)

        def record(self, name, original=original):
            names.add(name)
            return original(self, name)

        monkeypatch.setattr(Section, method, record)
    return names


EVERY_SECTION = {
    "model_list": [{"model_name": "route-x", "litellm_params": {"model": "openai/x"}, "model_info": {}}],
    "general_settings": {"default_provider_configs": {"openai": {}}},
    "router_settings": {"model_group_alias": {"alias-x": {"model": "route-x"}}},
    "switchstand": {
        "gateway_settings": {},
        "providers": {"provider-x": {}},
        "routes": {"route-x": {}},
        "teams": {"team-x": {}},
        "keys": {"key-x": {}},
    },
}


def test_every_key_of_the_configuration_file_is_described(asked):
    reader.read(EVERY_SECTION, Notes())
    text = file_doc.PATH.read_text()
    described = set(re.findall(r"`([a-z0-9_]+)[`:]", text))
    assert len(asked) > 100
    own = {"provider-x", "route-x", "team-x", "key-x", "alias-x", "openai"}
    assert asked - own - described == set()
    assert set(REQUEST_PARAMETERS) <= described


def test_the_tables_of_the_configuration_file_are_not_stale():
    text = file_doc.PATH.read_text()
    assert text == file_doc.updated(text), "run python -m routing.config.file_doc"
