"""One call's trace while it runs: ids only. Spans are made of it later, in another thread."""

import os
import random
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.calls.call import Attempt, Call
from proxy.journal.records import Closed
from proxy.transports.base import RequestHead

MOST_WAITING = 4096  # calls that are over and not exported yet; what comes on top is dropped
LOOKED_AT = 2048  # bytes of an answer in which its model's name is looked for

# Version 00, or a later one, which may have more at its end: W3C Trace Context, 4.3.
_PARENT = re.compile(
    rb"(?!ff)(?!00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
# In a JSON string the quotes would be escaped: what is found is a field, not a text.
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,200})"')
_dice = random.Random()
os.register_at_fork(after_in_child=_dice.seed)

Sampler = Callable[["Parent | None", int], bool]
"""Whether a trace (the caller's context, the trace's id) is recorded."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span, from its traceparent."""

    trace_id: int
    span_id: int
    flags: int
    state: str  # the caller's tracestate, as it came


@dataclass(slots=True)
class Sent:
    """One attempt's span."""

    attempt: Attempt
    span_id: int
    model: str = ""  # as the provider named it


@dataclass(frozen=True, slots=True)
class Finished:
    """All that spans are made of. It holds no body: thousands may wait."""

    trace: "Trace"
    row: Closed
    received: float  # perf_counter, as the attempts' times are
    attempts: tuple[Attempt, ...]
    served: Attempt | None


class Tracing:
    """Begins traces and takes them when they are over, on the event loop; another thread reads `finished`."""

    def __init__(self, samples: Sampler, stop: Callable[[], None]) -> None:
        self.finished: deque[Finished] = deque()
        self.overflown = 0  # traces that found the queue full
        self.refused = 0  # traces that the collector did not take; counted by the exporting thread
        self.stop = stop
        self._samples = samples

    @property
    def dropped(self) -> int:
        return self.overflown + self.refused

    def begin(self, headers: dict[bytes, bytes]) -> "Trace":
        parent = _parent(headers)
        trace_id = parent.trace_id if parent else _dice.getrandbits(128) or 1
        return Trace(self, trace_id, parent, self._samples(parent, trace_id))

    def take(self, finished: Finished) -> None:
        if len(self.finished) < MOST_WAITING:
            self.finished.append(finished)
        else:
            self.overflown += 1


@dataclass(slots=True)
class Trace:
    tracing: Tracing = field(repr=False)
    trace_id: int
    parent: Parent | None
    sampled: bool
    span_id: int = field(default_factory=lambda: _new_span_id())
    sent: list[Sent] = field(default_factory=list)

    def head(self, head: RequestHead, attempt: Attempt) -> RequestHead:
        """The same request's head with this attempt as the provider's parent span."""
        span_id = _new_span_id()
        self.sent.append(Sent(attempt, span_id))
        headers = [(name, value) for name, value in head.headers if name.lower() not in _OURS]
        headers.append(("traceparent", f"00-{self.trace_id:032x}-{span_id:016x}-{int(self.sampled):02x}"))
        if self.parent is not None and self.parent.state:
            headers.append(("tracestate", self.parent.state))
        return RequestHead(head.url, headers)

    def answered(self, attempt: Attempt, body: bytes) -> None:
        """`body`: the whole of it, or what of a stream is here."""
        found = _MODEL.search(body, 0, LOOKED_AT)
        if found is not None:
            for sent in self.sent:
                if sent.attempt is attempt:
                    sent.model = found[1].decode("utf-8", "replace")

    def end(self, call: Call, row: Closed) -> None:
        """`row`: what the journal keeps of the call."""
        self.tracing.take(Finished(self, row, call.incoming.received, tuple(call.attempts), call.served_by()))


_OURS = ("traceparent", "tracestate")


def _new_span_id() -> int:
    return _dice.getrandbits(64) or 1


def _parent(headers: dict[bytes, bytes]) -> Parent | None:
    given = headers.get(b"traceparent")
    found = _PARENT.fullmatch(given.strip()) if given is not None else None
    if found is None or given is None:
        return None
    state = headers.get(b"tracestate", b"").decode("latin-1").strip()
    return Parent(int(found[1], 16), int(found[2], 16), int(found[3], 16), state[:512])
