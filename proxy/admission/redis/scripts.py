"""The scripts that run in Redis, and how a call of one is packed."""

import hashlib
from pathlib import Path
from typing import Any

import hiredis
import msgspec

from proxy.admission.redis.connection import RedisConnection, RedisRefused, Word

PREFIX = "{switchstand}"
"""One hash tag for all keys: a script may touch only keys of one slot."""
GRANTED, UNSEEDED = 1, -1
"""How an answer of lua/admit.lua begins."""

Record = tuple[str | int, ...]
"""As lua/settle.lua reads it."""

packed = msgspec.msgpack.Encoder().encode

_FOLDER = Path(__file__).parent / "lua"


class Script:
    def __init__(self, name: str) -> None:
        self.text = (_FOLDER / "common.lua").read_text() + (_FOLDER / f"{name}.lua").read_text()
        self.sha = hashlib.sha1(self.text.encode()).hexdigest()


ADMIT, SETTLE, SEED, EPOCH, FAILED = (Script(name) for name in ("admit", "settle", "seed", "epoch", "failed"))


class PackedScript:
    """A call of a script whose words are packed once, but for the last one.

    Source of the format: the Redis serialization protocol, RESP.
    """

    __slots__ = ("_by_sha", "_fixed", "_script")

    def __init__(self, script: Script, keys: list[str], word: bytes) -> None:
        self._script = script
        self._fixed = (len(keys), *keys, word)
        self._by_sha = self._packed("EVALSHA", script.sha)

    @property
    def size(self) -> int:
        """Bytes that it keeps, about."""
        return 2 * len(self._by_sha)

    def by_sha(self, last: bytes) -> bytes:
        return b"%b$%d\r\n%b\r\n" % (self._by_sha, len(last), last)

    def whole(self, last: bytes) -> bytes:
        """For a Redis that doesn't know the script."""
        return b"%b$%d\r\n%b\r\n" % (self._packed("EVAL", self._script.text), len(last), last)

    def _packed(self, *command: str) -> bytes:
        words = (*command, *self._fixed)
        found = hiredis.pack_command(words)  # type: ignore[arg-type] # its stub says one word
        return b"*%d\r\n" % (len(words) + 1) + found.partition(b"\r\n")[2]


async def run(connection: RedisConnection, script: Script, keys: list[str], *arguments: Word) -> Any:
    """Raises RedisAway, RedisRefused."""
    try:
        return await connection.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
    except RedisRefused as error:
        if not str(error).startswith("NOSCRIPT"):
            raise
        return await connection.call("EVAL", script.text, len(keys), *keys, *arguments)
