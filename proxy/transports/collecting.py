"""Answers that are collected whole."""

from collections.abc import Awaitable, Callable

from proxy.transports.base import LONGEST_ERROR, ConnectionBroken, UpstreamResponse
from proxy.transports.room import Room


async def collected(next_chunk: Callable[[], Awaitable[bytes]], room: Room, how: str = "") -> bytes:
    """Raises what next_chunk() raises, and ConnectionBroken for an answer that is too long."""
    parts, size, place = [], 0, room.enter()
    try:
        while chunk := await next_chunk():
            parts.append(chunk)
            size += len(chunk)
            if size > room.longest:
                raise ConnectionBroken(f"sent an answer of more than {room.longest:,} bytes{how}")
            await place.grow(size)
        return b"".join(parts)
    finally:
        room.leave(place)


async def beginning(response: UpstreamResponse) -> bytes:
    """Of an error: its status says most of it."""
    parts, size = [], 0
    while chunk := await response.next_chunk():
        parts.append(chunk)
        size += len(chunk)
        if size > LONGEST_ERROR:
            await response.aclose()
            break
    return b"".join(parts)
