"""A relay that keeps what passes."""

from collections.abc import Callable
from typing import Any

from proxy.attempt import Answer
from proxy.call import Call
from proxy.relay import Relay, Resume


class RecordedRelay(Relay):
    __slots__ = ("_content",)

    def __init__(
        self, call: Call, answer: Answer, headers: bytes, account: Callable[[Call], None], resume: Resume
    ) -> None:
        super().__init__(call, answer, headers, account, resume)
        assert call.content is not None
        self._content = call.content
        self._content.add(self.body)

    async def next_chunk(self) -> Any:
        chunk = await super().next_chunk()
        self._content.add(chunk)
        return chunk
