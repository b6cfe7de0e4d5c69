"""The record of a call's content, in a journal of its own: large ones must not slow down the books."""

import zlib
from typing import Any

import msgspec

from proxy.journal.records import BadLine

LARGEST = 300_000
"""Bytes of a request or an answer: two of them, encrypted, must fit into what a reader takes at once."""


class Content(msgspec.Struct, tag="content", omit_defaults=True):
    """`token` is the encrypted (request, answer) in MessagePack; empty where only the facts are kept."""

    id: str
    received_at_ns: int
    level: int
    key_name: str = ""
    facts: dict[str, Any] = {}
    token: str = ""
    cut: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Content).decode
_pack = msgspec.msgpack.encode
_unpack = msgspec.msgpack.Decoder(tuple[bytes, bytes]).decode


def to_line(record: Content) -> bytes:
    """As the books' journal has it: a checksum, a blank, JSON, a newline."""
    document = _encode(record)
    return b"%08x %s\n" % (zlib.crc32(document), document)


def from_line(line: bytes) -> Content:
    """Raises BadLine."""
    document = line[9:].rstrip(b"\n")
    try:
        if int(line[:8], 16) != zlib.crc32(document):
            raise BadLine("checksum differs")
        return _decode(document)
    except (ValueError, msgspec.DecodeError) as error:
        raise BadLine(str(error)) from error


def pack(request: bytes, answer: bytes) -> bytes:
    return _pack((request, answer))


def unpack(content: bytes) -> tuple[bytes, bytes]:
    return _unpack(content)
