"""Content codings of answers. They are asked for as they are; some gateways and CDNs compress all the same.

Source: RFC 9110, 8.4.1.
"""

import asyncio
import zlib
from collections.abc import Iterator

from proxy.transports.base import ConnectionBroken, Sink, UpstreamResponse
from proxy.transports.collecting import beginning, collected

NONE = frozenset(("", "identity"))
GZIP = frozenset(("gzip", "x-gzip"))
PIECE = 64 * 1024  # bytes that are made at a time: a thousand may come of each one that arrived
MEMBER = b"\x1f\x8b"  # how each of gzip's begins
_GZIP_BITS, _ZLIB_BITS, _RAW_BITS = 31, 15, -15


class Inflater:
    """Unpacks gzip or deflate as it arrives, a bounded piece at a time."""

    def __init__(self, coding: str) -> None:
        """Raises ConnectionBroken for any other coding."""
        if coding not in GZIP and coding != "deflate":
            raise ConnectionBroken(f"answered in the content coding {coding[:40]}, which is not read here")
        self._coding = coding
        self._unpacks = zlib.decompressobj(_GZIP_BITS) if coding in GZIP else None
        self.over = False  # what comes now is padding, and is not kept
        self._begun = b""  # of deflate: too little to tell of which kind it is

    @property
    def whole(self) -> bool:
        return not self._begun and (self._unpacks is None or self._unpacks.eof)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Raises ConnectionBroken where it is not what it says."""
        try:
            yield from self._pieces(data)
        except zlib.error:
            raise ConnectionBroken(f"sent a body that is not the {self._coding} that it says") from None

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        if self.over:
            return
        if self._unpacks is None:
            data = self._begun + data
            self._begun = data if len(data) < 2 else b""
            if self._begun or not data:
                return
            self._unpacks = zlib.decompressobj(_ZLIB_BITS if _has_zlib_head(data) else _RAW_BITS)
        while data:
            if piece := self._unpacks.decompress(data, PIECE):
                yield piece
            data = self._unpacks.unconsumed_tail
            if self._unpacks.eof:
                data = self._unpacks.unused_data
                self.over = not MEMBER.startswith(data[:2]) or (self._coding == "deflate" and data != b"")
                if self.over or len(data) < len(MEMBER):
                    return  # padding, or too little to tell
                self._unpacks = zlib.decompressobj(_GZIP_BITS)  # gzip may have several members


def _has_zlib_head(data: bytes) -> bool:
    """Some servers send raw deflate, which RFC 9110 warns of."""
    return data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0


def coding_of(named: str) -> str:
    """The one coding in a content-encoding header; "" where there is none."""
    codings = [word.strip().lower() for word in named.split(",")]
    return ", ".join(coding for coding in codings if coding not in NONE)


def unpacked(coding: str, data: bytes, most: int) -> bytes:
    """The first `most` bytes, also where the body was cut. Raises ConnectionBroken."""
    if not coding:
        return data[:most]
    parts, size = [], 0
    for piece in Inflater(coding).pieces(data):
        parts.append(piece)
        size += len(piece)
        if size >= most:
            break
    return b"".join(parts)[:most]


class UnpackedResponse:
    """A response whose body is unpacked on its way."""

    def __init__(self, response: UpstreamResponse, coding: str) -> None:
        self._response = response
        self._inflater = Inflater(coding)
        self.room = response.room
        self._pieces: Iterator[bytes] = iter(())
        self.over = False

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        return self._response.header(name)

    def content(self) -> tuple[str, str]:
        return self._response.content()[0], ""

    async def read(self) -> bytes:
        if 200 <= self.status < 300:
            return await collected(self.next_chunk, self.room, ", unpacked")
        return await beginning(self)

    async def next_chunk(self, sink: Sink | None = None) -> bytes:
        while not self.over:
            for piece in self._pieces:
                if sink is None or not sink(piece):
                    return piece
                await asyncio.sleep(0)  # many may come of one chunk: others have their turn
            chunk = await self._response.next_chunk()
            self._pieces = self._inflater.pieces(chunk)
            if not chunk:
                self.over = True
                if not self._inflater.whole:
                    raise ConnectionBroken("ended in the middle of its compressed body")
        return b""

    def allow_silence(self, seconds: float) -> None:
        self._response.allow_silence(seconds)

    async def aclose(self) -> None:
        await self._response.aclose()
