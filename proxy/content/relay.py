"""A relay that keeps what passes."""

from typing import Any

from proxy.call import Call
from proxy.relay import Relay


class RecordedRelay(Relay):
    __slots__ = ("_content",)

    def __init__(self, call: Call, *args: Any) -> None:
        super().__init__(call, *args)
        assert call.content is not None
        self._content = call.content

    def first_chunk(self) -> bytes:
        chunk = super().first_chunk()
        self._content.add(chunk)
        return chunk

    async def next_chunk(self) -> Any:
        chunk = await super().next_chunk()
        self._content.add(chunk)
        return chunk
