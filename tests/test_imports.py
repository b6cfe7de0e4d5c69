"""One direction of imports: gateway_project -> monitoring -> proxy -> routing. Nothing imports upwards."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
APPS = ("routing", "proxy", "monitoring", "gateway_project")  # each may import itself and those before it


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("app", APPS)
def test_no_module_imports_upwards(app: str) -> None:
    above = APPS[APPS.index(app) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / app).rglob("*.py")
        for name in imported(path)
        if name.split(".")[0] in above
    ]
    assert wrong == []


def test_a_strategy_and_a_dialect_know_nothing_of_each_other() -> None:
    """What grows is one file: none of them imports its siblings, but for a base it is made from."""
    allowed = {"routing.strategies.base", "proxy.dialects.base", "proxy.dialects.words"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in ("routing/strategies", "proxy/dialects")
        for path in (ROOT / folder).glob("[!_]*.py")
        for name in imported(path)
        if name.startswith(folder.replace("/", ".") + ".")
        and name not in allowed
        and not f"{name}.".startswith("proxy.dialects.openai.")
    ]
    assert wrong == []
