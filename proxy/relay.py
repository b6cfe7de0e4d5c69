"""Step 6: bytes from the provider to the client, as they arrive."""

import asyncio
import time
from collections.abc import Callable

from proxy.attempts import Answer
from proxy.call import Call
from proxy.errors import GatewayError, UpstreamError, UpstreamTimeout
from proxy.sse import StreamReader
from proxy.transports.base import TransportFault, TransportTimeout
from proxy.usage import estimate


def redacted(error_event: bytes, call: Call) -> bytes:
    """Some providers repeat the key that they refuse."""
    stored = call.target.provider.credential if call.target else ""
    for credential in (stored, call.caller_credential):
        if credential:
            error_event = error_event.replace(credential.encode("latin-1", "replace"), b"[redacted]")
    return error_event


class Relay:
    """An answer on its way. The door calls next_chunk() until b"", and aclose() however it ends.

    A class, not a generator: closing a generator that never started would skip its `finally`.
    """

    __slots__ = (
        "_account",
        "_answer",
        "_call",
        "_closed",
        "_first",
        "_reader",
        "body",
        "headers",
        "status",
        "stream",
    )

    def __init__(self, call: Call, answer: Answer, headers: bytes, account: Callable[[Call], None]) -> None:
        self.status = answer.response.status
        self.headers = headers
        self.stream = answer.stream
        self.body = b"" if answer.stream else answer.body
        self._call = call
        self._answer: Answer | None = answer if answer.stream else None
        self._account = account
        self._first = answer.body if answer.stream else b""
        self._reader = StreamReader()
        self._closed = False

    async def next_chunk(self) -> bytes:
        """The next bytes for the client, b"" at the end; a stream that breaks ends with an error event."""
        if self._first:
            chunk, self._first = self._first, b""
            self._call.first_byte = time.perf_counter()
        elif self._answer is None:
            return b""
        else:
            try:
                chunk = await self._answer.response.next_chunk()
            except TransportFault as fault:
                return await (self._ended() if self._reader.done else self._broken(fault))
            if not chunk:
                return await self._ended()
        self._reader.feed(chunk)
        return redacted(chunk, self._call) if self._reader.failed else chunk

    async def _ended(self) -> bytes:
        self._reader.end()
        if self._reader.failed and self._answer is not None:
            self._answer.trial.failed(UpstreamError("sent an error in the middle of a stream."))
        if self._reader.whole or self._reader.failed or "event-stream" not in self._answer_type():
            await self._let_go()
            return b""
        return await self._broken(TransportFault("the stream ended before the answer did"))

    def _answer_type(self) -> str:
        return self._answer.content_type if self._answer else ""

    async def _broken(self, fault: TransportFault) -> bytes:
        slug = self._call.target.provider.slug if self._call.target else ""
        kind = UpstreamTimeout if isinstance(fault, TransportTimeout) else UpstreamError
        error = kind(f"{slug}: {fault}; the answer is incomplete.", provider=slug)
        self._call.error = error
        self._call.outcome = "upstream_broken"
        if self._answer is not None:
            self._answer.trial.failed(error)
        await self._let_go()
        # The blank line ends whatever event was cut in half.
        return b"\n\n" + error.event(self._call.request_id)

    async def _let_go(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.aclose()

    def answered(self) -> None:
        """The door has sent the whole body of an answer that is no stream."""
        self._call.first_byte = time.perf_counter()

    async def aclose(self, *, hung_up: bool = False) -> None:
        """Account for the call, then close what is open. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._settle_outcome(hung_up)
        self._account(self._call)  # before any await: it must not be cancelled half-way
        if self._answer is not None:
            await asyncio.shield(self._let_go())

    def _settle_outcome(self, hung_up: bool) -> None:
        call = self._call
        call.status = self.status
        if self.stream:
            call.usage = self._reader.usage
            call.answer_bytes = self._reader.size
            unfinished = self._answer is not None and not self._reader.whole
            if unfinished and not call.outcome:
                call.outcome = "client_gone"
            if self._reader.failed and not call.outcome:
                call.outcome, call.error = "upstream_broken", GatewayError("", code="upstream_error_event")
        elif hung_up:
            call.outcome = "client_gone"
        call.outcome = call.outcome or "answered"
        if call.usage is None and call.ask is not None:
            call.usage = estimate(call.ask.size, call.answer_bytes)
