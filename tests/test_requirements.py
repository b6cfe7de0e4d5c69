"""The lock file holds what requirements.in asks for; a gap shows only where no test tool fills it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.live import ROOT


def asked_for() -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "requirements.in").read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def pinned() -> dict[str, list[Version]]:
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE
    ):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def test_every_requirement_is_pinned_as_asked_for() -> None:
    pins = pinned()
    wrong = [
        str(requirement)
        for requirement in asked_for()
        if not (versions := pins.get(canonicalize_name(requirement.name)))
        or not all(version in requirement.specifier for version in versions)
    ]
    assert wrong == [], "run make requirements"


@pytest.mark.parametrize(
    ("said", "status", "wanted", "shown"),
    [
        ("No known vulnerabilities found", 0, 0, "No known weaknesses."),
        ("Found 1 known vulnerability in 1 package\nName ID\nx CVE-1", 1, 1, "CVE-1"),
        ("requests.exceptions.ConnectionError: Failed to resolve", 1, 0, "NOT AUDITED: no advisory database"),
        ("No known vulnerabilities found\na  could not be audited: a", 0, 0, "NOT AUDITED: 1 packages"),
        ("requirements.txt: hashes differ", 1, 1, "hashes differ"),
    ],
)
def test_the_audit_fails_for_weaknesses_and_says_where_it_could_not_look(
    tmp_path: Path, said: str, status: int, wanted: int, shown: str
) -> None:
    tool = tmp_path / "tool"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n")
    tool.chmod(0o755)
    done = subprocess.run(
        [ROOT / ".ci" / "audit"],
        env=os.environ | {"AUDIT_COMMAND": str(tool)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == wanted, done.stdout
    assert shown in done.stdout
