"""Step 6: a stream's bytes from the provider to the client, as they arrive."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.answers.abandoned import Abandoned
from proxy.attempts.opening import ERROR, MALFORMED, Begins, Opening
from proxy.attempts.reading import Answer
from proxy.calls.call import Call
from proxy.continuing import Continuation, Prefix
from proxy.errors import GatewayError, UpstreamError, UpstreamTimeout
from proxy.metering.usage import told_or_estimated
from proxy.redaction import redacted
from proxy.sse import StreamReader
from proxy.stall import Stall
from proxy.stream_usage import UsageFilter
from proxy.transports.base import ConnectionBroken, Sink, TransportFault, TransportTimeout

FAREWELL_SECONDS = 2.0  # between a stream's last word and its usage
logger = logging.getLogger(__name__)


class Client(Protocol):
    """Gets a stream's chunks as they arrive."""

    @property
    def behind(self) -> bool:
        """Whether it reads more slowly than it is sent to."""

    def send(self, chunk: bytes) -> None:
        """Does not wait, and does not raise."""


Resume = Callable[[Call, Prefix], Awaitable[Answer | None]]


class Relay:
    """A stream on its way. The door calls next_chunk() until b"", and aclose() however it ends.

    A client that it was told of (pass_to()) gets most chunks without the door: to wake a task for each
    costs more than all else that is done for a chunk.

    A class, not a generator: closing a generator that never started would skip its `finally`.
    """

    __slots__ = (
        "_abandoned",
        "_account",
        "_answer",
        "_call",
        "_client",
        "_closed",
        "_continuation",
        "_filter",
        "_first",
        "_half",
        "_kept",
        "_left_as",
        "_over",
        "_reader",
        "_resume",
        "_send",
        "_sink",
        "_stall",
        "headers",
        "status",
    )

    def __init__(
        self,
        call: Call,
        answer: Answer,
        headers: bytes,
        account: Callable[[Call], None],
        resume: Resume,
        abandoned: Abandoned | None = None,
    ) -> None:
        assert call.route is not None
        route = call.route.route
        self.status = answer.response.status
        self.headers = headers
        self._call = call
        self._answer: Answer | None = answer
        self._account = account
        self._abandoned = abandoned
        self._filter = UsageFilter() if answer.hides_usage else None
        self._resume = resume
        self._first, self._kept = answer.body, answer.kept
        self._reader = StreamReader()
        self._half: list[bytes] | None = None  # of a line, as it came
        self._stall = None if route.stall_timeout is None else Stall(route.stall_timeout, self._reader)
        continues = route.on_cut == "continue" and call.ask is not None
        most = answer.target.provider.connection.longest_answer
        self._continuation = Continuation(call.ask, most) if continues and call.ask else None
        self._over = False  # whether the stream came to some end of its own
        self._closed = False
        self._left_as = "client_gone"  # the outcome of a stream that was read on
        self._client: Client | None = None
        self._send: Callable[[bytes], None] | None = None
        self._sink: Sink | None = None

    def first_chunk(self) -> bytes:
        """What of the stream is here already, to be sent together with its head; may be nothing."""
        chunk = self._first
        try:
            good = self._good(chunk)
        except Exception:
            logger.exception("call %s failed in the gateway, at the beginning of its stream", self._call.id)
            return b""  # next_chunk() comes to the same, and ends the stream
        self._first = self._kept.pop() if self._kept else b""
        if self._answer is None or self._answer.opening is None:
            self._call.first_byte = time.perf_counter()
        return good

    @property
    def ends(self) -> bool:
        """Whether the whole stream was handed out: next_chunk() says so without waiting."""
        here = not self._first and self._answer is not None and self._answer.response.over
        return here and self._reader.whole

    def pass_to(self, client: Client) -> None:
        """From the next next_chunk() on: what comes while that waits is the client's at once."""
        self._client, self._send, self._sink = client, client.send, self._pass

    async def next_chunk(self) -> bytes:
        """The next bytes for the client, b"" at the end; a stream that breaks ends with an error event."""
        try:
            while self._answer is not None:
                try:
                    chunk = self._kept_chunk() if self._first else await self._coming_chunk(self._answer)
                except TransportFault as fault:
                    return await (self._ended() if self._reader.done else self._cut(fault))
                if not chunk:
                    return await self._ended()
                if good := self._good(chunk):
                    return good
            return b""
        except Exception:
            logger.exception("call %s failed in the gateway, in the middle of its stream", self._call.id)
            return await self._end_with(GatewayError(), "failed")

    def _kept_chunk(self) -> bytes:
        chunk, self._first = self._first, self._kept.pop() if self._kept else b""
        if self._answer is None or self._answer.opening is None:
            self._begin_counting()
        return chunk

    def _begin_counting(self) -> None:
        """The first event is here."""
        if not self._closed:
            self._call.first_byte = self._call.first_byte or time.perf_counter()

    def _coming_chunk(self, answer: Answer) -> Awaitable[bytes]:
        """Raises TransportFault where the stream is broken."""
        if fault := self._fault():
            raise ConnectionBroken(fault)
        if answer.opening is not None:
            return self._coming_comment(answer, answer.opening)
        if self._stall is not None:
            return self._stall.next_chunk(answer.response, self._sink)
        return answer.response.next_chunk(self._sink)

    async def _coming_comment(self, answer: Answer, opening: Opening) -> bytes:
        """The next bytes of a stream whose first event is not here. Raises TransportFault."""
        chunk = await opening.next_chunk(answer.response)
        opening.take(chunk)
        if opening.begins is Begins.NOT_YET:
            return chunk
        answer.opening = None
        if opening.begins is Begins.WITH_EVENT:
            answer.trial.answered()
            self._begin_counting()
        elif opening.fault not in (ERROR, MALFORMED):  # those are looked at like any other event's
            raise ConnectionBroken(opening.fault)
        return chunk

    def _pass(self, chunk: bytes) -> bool:
        """The sink of next_chunk(). Raises ConnectionBroken, which ends its wait, behind what is good."""
        assert self._client is not None
        assert self._send is not None
        if self._client.behind:
            return False
        if good := self._good(chunk):
            self._send(good)
        if fault := self._fault():
            raise ConnectionBroken(fault)
        return True

    def _good(self, chunk: bytes) -> bytes:
        """What of the chunk may be passed on; _fault() tells why it isn't all."""
        if self._continuation is not None:
            chunk = self._continuation.take(chunk)
        good = self._reader.feed(chunk)
        if good < len(chunk):
            chunk = chunk[:good]
        if self._half or self._reader.waiting:
            chunk = self._whole_lines(chunk)
        if self._filter is not None:
            chunk = self._filter.take(chunk)
        return self._without_secrets(chunk) if self._reader.failed else chunk

    def _without_secrets(self, said: bytes) -> bytes:
        target = self._call.target
        return redacted(said, self._call, target.provider if target else None)

    def _whole_lines(self, chunk: bytes) -> bytes:
        """A half line waits for its other half: a client could make nothing of it where the stream breaks."""
        reader = self._reader
        if reader.malformed:
            # Where none of the chunk is good, the half is of the malformed event.
            return b"".join((*(self._half or ()), chunk)) if chunk else b""
        half = self._half = self._half or []
        half.append(chunk)
        if reader.waiting > len(chunk):
            return b""  # it is one line yet: joined once, when it is whole
        lines = b"".join(half)
        end = len(lines) - reader.waiting
        self._half = [lines[end:]] if reader.waiting else None
        return lines[:end]

    def _fault(self) -> str:
        if self._continuation is not None:
            return self._continuation.fault
        return "sent a malformed event" if self._reader.malformed else ""

    async def _ended(self) -> bytes:
        tail = b"".join(self._half or ())
        if self._continuation is not None:
            tail = self._continuation.end()
            self._reader.feed(tail)
        self._reader.end()
        if self._filter is not None:
            tail = self._filter.take(tail)
        if self._reader.failed and self._answer is not None:
            self._answer.trial.failed(UpstreamError("sent an error in the middle of a stream."))
        if self._reader.whole or self._reader.failed or "event-stream" not in self._answer_type():
            self._over = True
            await self.let_go()
            return self._without_secrets(tail) if self._reader.failed else tail
        return await self._cut(ConnectionBroken("the stream ended before the answer did"))

    def _answer_type(self) -> str:
        return self._answer.content_type if self._answer else ""

    async def _cut(self, fault: TransportFault) -> bytes:
        """The stream is broken: go on with another target's, where the route wants that."""
        slug = self._call.target.provider.slug if self._call.target else ""
        kind = UpstreamTimeout if isinstance(fault, TransportTimeout) else UpstreamError
        error = kind(f"{slug}: {fault}; the answer is incomplete.", provider=slug)
        if self._answer is not None:
            self._answer.trial.failed(error)
        if (attempt := self._call.served_by()) is not None:
            attempt.result += f", then: {error.message}"
        await self.let_go()
        if self._continuation is not None and self._continuation.prefix is not None and not self._closed:
            if self._reader.finished:  # only the farewell is missing
                self._over = self._reader.done = True
                return b"data: [DONE]\n\n"
            if await self._continued(self._continuation):
                return await Relay.next_chunk(self)  # not that of a subclass, twice
        return await self._end_with(error, "upstream_broken")

    async def _end_with(self, error: GatewayError, outcome: str) -> bytes:
        self._over = True
        self._call.error, self._call.outcome = error, outcome
        await self.let_go()
        # The blank line ends whatever event was cut in half.
        return b"\n\n" + error.event(self._call.request_id)

    async def _continued(self, continuation: Continuation) -> bool:
        prefix, before = continuation.prefix, self._call.target
        assert prefix is not None
        assert before is not None
        answer = await self._resume(self._call, prefix)
        if answer is None:
            return False
        self._call.answered_before += ((before, continuation.cut()),)
        self._answer, self._first = answer, answer.body
        if self._stall is not None:
            self._stall.begin()
        self._filter = UsageFilter() if answer.hides_usage else None
        return True

    async def let_go(self) -> None:
        """Close the connection to the provider. May be called twice."""
        answer, self._answer = self._answer, None
        if answer is not None:
            await answer.aclose()

    async def aclose(self) -> None:
        """Account for the call, then close what is open. May be called twice.

        A stream may be read on instead; it is accounted for when that is over.
        """
        if self._closed:
            return
        self._closed = True
        self._client = self._send = self._sink = None
        if self._is_read_on():
            return
        self._settle_outcome()
        self._account(self._call)  # before any await: it must not be cancelled half-way
        if self._answer is not None:
            await asyncio.shield(self.let_go())

    def _is_read_on(self) -> bool:
        if self._over or self._answer is None or self._abandoned is None:
            return False
        if self._reader.whole:
            # Callers leave at the last word; the usage comes right behind it.
            wanted = self._reader.usage is None and not self._reader.done
            self._left_as, seconds = "answered", FAREWELL_SECONDS
        else:
            wanted, seconds = self._answer.target.provider.drains, None
        if not wanted or not self._abandoned.take(self, seconds):
            return False
        self._call.left_at = time.perf_counter()
        return True

    async def read_on(self, most_bytes: int) -> None:
        """For nobody, after the caller is gone: to the end of the stream, or of so many bytes."""
        while most_bytes > 0 and (chunk := await self.next_chunk()):
            most_bytes -= len(chunk)

    def account(self) -> None:
        """After it was read on: whatever came then, it was the caller who left."""
        call = self._call
        call.outcome, call.error = self._left_as, None
        if self._left_as == "client_gone":
            call.abandoned = "drained" if self._over and self._reader.whole else "cut_off"
        self._settle_outcome()
        self._account(call)

    def _settle_outcome(self) -> None:
        call = self._call
        call.status = self.status
        together = self._continuation.usage if self._continuation else None
        call.usage = together or self._reader.usage
        unfinished = not self._over and not self._reader.whole
        if unfinished and not call.outcome:
            call.outcome, call.abandoned = "client_gone", "cancelled"
        if self._reader.failed and not call.outcome:
            call.outcome, call.error = "upstream_broken", GatewayError("", code="upstream_error_event")
        call.outcome = call.outcome or "answered"
        if call.ask is not None:
            call.usage = told_or_estimated(call.usage, call.ask.size, self._reader.size)
