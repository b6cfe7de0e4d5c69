"""How long a stream may go without a whole event: comments, pings and pieces of events don't count."""

import asyncio

from proxy.sse import StreamReader
from proxy.transports.base import Sink, TransportTimeout, UpstreamResponse
from proxy.upstreams.deadline import Deadline, DeadlinePassed


class Stall:
    """Of one stream. Only waiting counts: a client that reads slowly is no fault of the provider."""

    __slots__ = ("_left", "_reader", "_seconds", "_seen")

    def __init__(self, seconds: float, reader: StreamReader) -> None:
        self._seconds = self._left = seconds
        self._reader = reader
        self._seen = (0, False)

    def begin(self) -> None:
        """Another target goes on with the stream."""
        self._left = self._seconds

    async def next_chunk(self, response: UpstreamResponse, sink: Sink | None = None) -> bytes:
        """See UpstreamResponse.next_chunk(). Who gets the chunk, or the sink, feeds the reader."""
        if self._moved():
            self._left = self._seconds
        deadline = Deadline(self._left)

        def take(chunk: bytes) -> bool:
            taken = sink is not None and sink(chunk)
            if self._moved():
                deadline.renew(self._seconds)
            return taken

        try:
            with deadline:
                return await response.next_chunk(take)
        except DeadlinePassed:
            told = f"sent no event for {self._seconds:g} s (the stall time-out)"
            raise TransportTimeout(told) from None
        finally:
            self._left = deadline.due - asyncio.get_running_loop().time()

    def _moved(self) -> bool:
        """Whether an event came since the last look; one that is too long to be read counts by its pieces."""
        reader, before = self._reader, self._seen
        self._seen = reader.size, reader.done
        return self._seen != before or reader.passes_unread
