"""What the shipper tells other processes, and the damage that it found: two files beside the journal.

Web processes read the first one, as they may not ask the database.
"""

import os
import time
from pathlib import Path

import msgspec

from proxy.journal.reader import Damage, workers
from proxy.journal.records import Closed

DAMAGE_FILE = "damaged.log"
STATE_FILE = "shipper.json"
SIGN_SECONDS = 1.0


class ShipperState(msgspec.Struct):
    """`at` is Unix seconds; counts are since the journal's directory was made."""

    at: float = 0.0
    rows: int = 0  # records shipped; one that is shipped again after a crash counts again
    unknown: int = 0  # calls whose process died
    damaged: int = 0  # records that were torn or altered, and rows that no column takes
    problem: str = ""  # the kind of fault that keeps rows from the database
    offsets: dict[str, int] = {}  # bytes shipped, by segment's file name
    stalled: dict[str, str] = {}  # other background components without a sign of life
    counted: list[str] = []  # workers whose unknown calls are counted, and that may be buried again


class _DamageLine(msgspec.Struct, omit_defaults=True):
    place: str  # file and byte, or the call
    why: str
    content: str = ""


_encode = msgspec.json.encode
_state = msgspec.json.Decoder(ShipperState)
_line = msgspec.json.Decoder(_DamageLine)


def read_state(directory: Path) -> ShipperState | None:
    """None where no shipper has run."""
    try:
        return _state.decode((directory / STATE_FILE).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write_state(directory: Path, state: ShipperState) -> None:
    """Raises OSError."""
    new = directory / f"{STATE_FILE}.{os.getpid()}"
    new.write_bytes(_encode(state))
    new.replace(directory / STATE_FILE)


class StateFile:
    def __init__(self, directory: Path) -> None:
        self._path = directory / STATE_FILE
        self._damage_path = directory / DAMAGE_FILE
        self._damage = self._read_damage()
        self.state = read_state(directory) or ShipperState()
        self.state.damaged = len(self._damage)
        self.state.stalled = {}  # that is what an earlier one saw
        self._saved = b""

    def save(self) -> None:
        """At once where it is news, else as a sign of life once in SIGN_SECONDS. Raises OSError."""
        told, self.state.at = self.state.at, 0.0
        facts = _encode(self.state)
        self.state.at = told
        if facts == self._saved and 0 <= time.time() - told < SIGN_SECONDS:
            return
        self.state.at = time.time()
        write_state(self._path.parent, self.state)
        self._saved = facts

    def count_unknown(self, worker: str, calls: int) -> None:
        """Once for each worker: a shipper that dies half-way leaves its journal to the next one."""
        if worker not in self.state.counted:
            self.state.unknown += calls
            left = workers(self._path.parent)
            self.state.counted = [*(one for one in self.state.counted if one in left), worker]

    def keep_damage(self, found: Damage) -> bool:
        """Whether it is news. The bytes are kept: what they say may still be read by people."""
        content = found.content.decode("latin-1")
        return self._keep(_DamageLine(f"{found.file} at byte {found.byte}", found.why, content))

    def keep_unstorable(self, call: Closed, why: str) -> bool:
        return self._keep(_DamageLine(f"call {call.id}", why, _encode(call).decode()))

    def _keep(self, line: _DamageLine) -> bool:
        if line.place in self._damage:  # seen by an earlier shipper that died before it went on
            return False
        with open(self._damage_path, "ab") as file:
            file.write(_encode(line) + b"\n")
        self._damage.add(line.place)
        self.state.damaged = len(self._damage)
        return True

    def _read_damage(self) -> set[str]:
        try:
            lines = self._damage_path.read_bytes().splitlines()
        except FileNotFoundError:
            return set()
        return {_line.decode(line).place for line in lines if line.endswith(b"}")}
