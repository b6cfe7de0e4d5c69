"""A relay that keeps what passes."""

from typing import Any

from proxy.answers.relay import Client, Relay
from proxy.calls.call import Call


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

    def pass_to(self, client: Client) -> None:
        super().pass_to(client)
        self._send = self._record

    def _record(self, chunk: bytes) -> None:
        assert self._client is not None
        self._client.send(chunk)
        self._content.add(chunk)

    async def next_chunk(self) -> Any:
        chunk = await super().next_chunk()
        self._content.add(chunk)
        return chunk
