"""The release, as VERSION has it."""

from pathlib import Path

VERSION = (Path(__file__).resolve().parent.parent / "VERSION").read_text().strip()
USER_AGENT = f"switchstand/{VERSION}"
