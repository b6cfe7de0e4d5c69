"""The release before, as tests/data keeps it: its databases and what it left in DATA_DIR."""

import gzip
import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

DATA = Path(__file__).parent / "data"
PROVIDER_KEY = "sk-provider-credential-0123456789"
HEADER_KEY = "sk-header-credential-0123456789"
KEYS = {
    "app": "sk-app-0123456789-0123456789",
    "free": "sk-free-0123456789-0123456789",
    "limited": "sk-limited-0123456789-0123456789",
    "restricted": "sk-restricted-0123456789-0123456789",
    "prepaid": "sk-prepaid-0123456789-0123456789",
    "revoked": "sk-revoked-0123456789-0123456789",
    "expired": "sk-expired-0123456789-0123456789",
}
OPEN = 2  # calls, when it was killed
UNSHIPPED = 5  # that had ended


class Release:
    """Made by tests/release_dump.py with the code of that release."""

    def __init__(self) -> None:
        (self.folder,) = DATA.glob("release-*")
        self.facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())

    @property
    def secrets(self) -> dict[str, str]:
        found: dict[str, str] = self.facts["secrets"]
        return found

    def unpack(self, database: str, data_dir: Path) -> None:
        """What was in DATA_DIR beside the database when the gateway was killed."""
        with tarfile.open(self.folder / f"{database}.tar.gz") as archive:
            archive.extractall(data_dir, filter="data")

    def load_sqlite(self, path: Path, port: int) -> None:
        """`port` is that of the test's own provider."""
        with closing(sqlite3.connect(path)) as link:
            link.executescript(self._statements("sqlite", port))

    def load_postgres(self, url: str, port: int) -> None:
        with psycopg.connect(url, autocommit=True) as link:
            link.execute(self._statements("postgres", port).encode())

    def _statements(self, database: str, port: int) -> str:
        text = gzip.decompress((self.folder / f"{database}.sql.gz").read_bytes()).decode()
        return text.replace(f"127.0.0.1:{self.facts['port']}", f"127.0.0.1:{port}")
