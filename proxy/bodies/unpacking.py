"""Content codings of request bodies (RFC 9110, 8.4.1): unpacked in the engine, for both doors.

A few bytes can stand for gigabytes: what is made is bounded in size, in time per turn of the event loop, and
counts as a body that the gateway holds.
"""

import asyncio
import zlib
from collections.abc import Iterator
from typing import Protocol

import brotli
from backports import zstd

from proxy.bodies.budget import BodyBudget, Intake
from proxy.calls.call import Call
from proxy.errors import InvalidRequest, RequestTooLarge, UnsupportedCoding
from proxy.transports.base import ConnectionBroken
from proxy.transports.coding import GZIP, PIECE, Inflater, coding_of

TAKEN = 4 * 1024  # bytes of what arrived that are looked at in one turn of the event loop
ZSTD_WINDOW = 23  # bits: 8 MB, more than a zstd content coding may ask for (RFC 9659)
_FAULTS = (ConnectionBroken, zlib.error, brotli.error, zstd.ZstdError)


class Unpacker(Protocol):
    """Gets the body in parts; what it makes comes in bounded pieces."""

    @property
    def whole(self) -> bool: ...

    def pieces(self, data: bytes) -> Iterator[bytes]: ...


class Brotli:
    def __init__(self) -> None:
        self._unpacks = brotli.Decompressor()

    @property
    def whole(self) -> bool:
        return bool(self._unpacks.is_finished())

    def pieces(self, data: bytes) -> Iterator[bytes]:
        piece = self._unpacks.process(data, output_buffer_limit=PIECE)
        while piece:  # it keeps some back even where it says that it can take more
            yield piece
            piece = b"" if self.whole else self._unpacks.process(b"", output_buffer_limit=PIECE)


class Zstd:
    def __init__(self) -> None:
        self._unpacks = _zstd_frame()

    @property
    def whole(self) -> bool:
        return self._unpacks.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        if self.whole:
            self._unpacks = _zstd_frame()  # there may be several
        while True:
            yield self._unpacks.decompress(data, PIECE)
            if self._unpacks.eof and self._unpacks.unused_data:
                data, self._unpacks = self._unpacks.unused_data, _zstd_frame()
            elif self._unpacks.eof or self._unpacks.needs_input:
                return
            else:
                data = b""


def _zstd_frame() -> zstd.ZstdDecompressor:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW})


def unpacker_of(coding: str) -> Unpacker:
    """Raises UnsupportedCoding."""
    if coding in GZIP or coding == "deflate":
        return Inflater(coding)
    if coding == "br":
        return Brotli()
    if coding == "zstd":
        return Zstd()
    allowed = UnsupportedCoding.allowed
    raise UnsupportedCoding(f"The content coding {coding[:40]!r} is not read here: {allowed}.")


class Unpacking:
    """One body at a time; the event loop has a turn between its pieces."""

    def __init__(self, most: int, bodies: BodyBudget | None = None) -> None:
        self._most = most
        self._bodies = bodies or BodyBudget(most)
        self._turn = asyncio.Lock()

    async def unpack(self, call: Call) -> None:
        """Raises InvalidRequest, RequestTooLarge, UnsupportedCoding, BodiesInFlight."""
        incoming = call.incoming
        coding = coding_of(incoming.headers[b"content-encoding"].decode("latin-1"))
        if not coding:
            return
        unpacker = unpacker_of(coding)
        incoming.unpacked = held = Intake(self._bodies, f"key {call.key.id if call.key else None}", 0)
        held.end()  # it makes room for nobody: it is worked on
        try:
            async with self._turn:
                incoming.body = await self._whole(unpacker, incoming.body, held)
        except _FAULTS:
            raise InvalidRequest(
                f"The body is not the {coding} that its content-encoding says.",
                param="content-encoding",
                code="invalid_content_encoding",
            ) from None

    async def _whole(self, unpacker: Unpacker, packed: bytes, held: Intake) -> bytes:
        parts, size = [], 0
        for begin in range(0, len(packed), TAKEN):
            for piece in unpacker.pieces(packed[begin : begin + TAKEN]):
                parts.append(piece)
                size += len(piece)
                if size > self._most:
                    raise RequestTooLarge(f"Unpacked, the body is larger than {self._most:,} bytes.")
                held.grow_to(size)
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # a long one may make nothing at all
            if isinstance(unpacker, Inflater) and unpacker.over:
                raise zlib.error("bytes behind the end")
        if not unpacker.whole:
            raise zlib.error("cut")
        return b"".join(parts)
