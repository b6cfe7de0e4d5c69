"""One request on its way through the engine."""

import math
import re
import time
from typing import TYPE_CHECKING

import msgspec

from proxy.admission.base import NO_RATE_LIMITS
from proxy.errors import GatewayError, InvalidRequest
from proxy.ids import uuid7
from routing.table import KeyEntry, Resolved, RoutingTable, TargetEntry

if TYPE_CHECKING:
    from proxy.admission.base import Candidate, Demand, Grant, RateLimitStates
    from proxy.ask import ChatAsk
    from proxy.attempts.attempt import Begun
    from proxy.bodies.budget import Intake
    from proxy.breaker.registry import Trial
    from proxy.calls.capture import Capture
    from proxy.calls.trace import Trace
    from proxy.journal.records import Closed, Common
    from proxy.metering.usage import Usage

MOST_TAGS = 20
_REQUEST_ID = re.compile(rb"^[\x21-\x7e]{1,128}\Z")


def given_request_id(value: bytes | None) -> str | None:
    """A caller's x-request-id, None where there is none that may be echoed."""
    return value.decode("ascii") if value is not None and _REQUEST_ID.match(value) else None


OPTIONS = frozenset(
    b"x-litellm-%b" % name for name in (b"model", b"route", b"timeout", b"num-retries", b"tags")
) | {b"x-client-info"}
"""Headers with which a caller says how a request is to be served, or what for. Few have any."""


class Incoming:
    """What a door hands over. Names of headers are lower-case; `received` is a perf_counter reading.

    `client` is the address that the request came from.
    """

    __slots__ = ("body", "client", "endpoint", "has_options", "headers", "received", "unpacked")

    def __init__(
        self, endpoint: str, headers: dict[bytes, bytes], body: bytes, received: float, client: str = ""
    ) -> None:
        self.endpoint = endpoint
        self.headers = headers
        self.body = body
        self.received = received
        self.client = client
        self.unpacked: Intake | None = None  # what a packed body became, as long as it is held
        self.has_options = not OPTIONS.isdisjoint(headers)

    def text(self, name: bytes) -> str | None:
        if (value := self.headers.get(name)) is None:
            return None
        return value.decode("latin-1").strip() or None

    def option(self, name: bytes) -> str | None:
        """text() of one of OPTIONS."""
        return self.text(name) if self.has_options else None


class Attempt(msgspec.Struct, eq=False):
    """One call to a provider, as the trail keeps it."""

    target: TargetEntry
    upstream_model: str
    started: float
    result: str = ""
    ms: float = 0.0


class Call:
    """State of one request; written by the engine's steps in order."""

    __slots__ = (
        "abandoned",
        "admitted",
        "answered_before",
        "ask",
        "attempts",
        "available",
        "begun",
        "bounds_answer",
        "caller_credential",
        "candidates",
        "common",
        "content",
        "deadline_at",
        "demand",
        "ended_at",
        "error",
        "fallbacks_tried",
        "fault",
        "fell_back_from",
        "first_byte",
        "grant",
        "hedged",
        "id",
        "incoming",
        "key",
        "last_resorts",
        "left_at",
        "opened",
        "order",
        "outcome",
        "price_cost",
        "rate_limits",
        "received_at_ns",
        "request_id",
        "route",
        "row",
        "shadow",
        "skipped",
        "status",
        "table",
        "target",
        "trace",
        "trial",
        "upstream_ms",
        "usage",
        "wait_first",
        "waited",
    )

    def __init__(self, incoming: Incoming, table: RoutingTable) -> None:
        self.incoming = incoming
        self.table = table  # one snapshot: an edit half-way can't mix two tables
        self.received_at_ns = time.time_ns()
        self.id = uuid7(self.received_at_ns)  # the log finds a day's rows by their ids
        self.request_id = self.id
        self.key: KeyEntry | None = None
        self.caller_credential = ""
        self.content: Capture | None = None  # where it is kept
        self.ask: ChatAsk | None = None
        self.route: Resolved | None = None
        self.demand: Demand | None = None
        self.grant: Grant | None = None
        self.trial: Trial | None = None  # of the last attempt
        self.rate_limits: RateLimitStates = NO_RATE_LIMITS
        self.bounds_answer = False  # whether the reserved answer tokens are sent to the provider
        self.fault: Exception | None = None  # what kept its first steps from their end
        self.opened = False
        self.common: Common | None = None  # what its rows share with others
        self.trace: Trace | None = None  # where OpenTelemetry is on
        self.attempts: list[Attempt] = []
        self.begun: Begun | None = None  # an attempt that was begun before anyone waits for its answer
        self.order: list[TargetEntry] = []  # in which targets are tried
        self.candidates: list[Candidate] = []  # of the same targets, where limits apply; the grant reads it
        self.fell_back_from: Resolved | None = None  # the route that was asked for, once another one serves
        self.fallbacks_tried: tuple[int, ...] = ()  # fallback routes that were looked at
        self.last_resorts: tuple[tuple[Resolved, list[TargetEntry]], ...] = ()  # with an open circuit
        self.admitted: Resolved | None = None  # the route whose limits the grant holds, whatever the target
        self.wait_first = 0.0  # seconds until the first of them may be asked: it is preferred that much
        self.waited = False  # for the preferred target: only once
        self.hedged: TargetEntry | None = None  # asked beside another one, and failed
        self.available = 0  # so many of them had no open circuit when the order was made
        self.skipped: tuple[tuple[TargetEntry, str], ...] = ()  # and why
        self.shadow = False
        self.target: TargetEntry | None = None
        self.usage: Usage | None = None
        self.answered_before: tuple[
            tuple[TargetEntry, Usage], ...
        ] = ()  # the parts of a stream that were cut
        self.abandoned = ""  # what became of the provider's answer when the client was gone
        self.ended_at: float | None = None  # perf_counter
        self.left_at: float | None = None  # perf_counter; when that was, if the answer was read on
        self.price_cost: int | None = None
        self.upstream_ms = 0.0
        self.deadline_at = math.inf  # perf_counter
        self.first_byte: float | None = None  # perf_counter
        self.status: int | None = None
        self.outcome = ""
        self.error: GatewayError | None = None
        self.row: Closed | None = None  # once it is over

    def take_request_id(self) -> InvalidRequest | None:
        """Use the caller's x-request-id. What is wrong with it is to be raised once it is known who calls."""
        given = self.incoming.headers.get(b"x-request-id")
        if given is None:
            return None
        request_id = given_request_id(given)
        if request_id is None:
            return InvalidRequest(
                "x-request-id must be 1 to 128 printable ASCII characters without blanks.",
                param="x-request-id",
            )
        self.request_id = request_id
        return None

    def take_fault(self) -> Exception:
        """To be raised; the call forgets it, or the two would know each other."""
        fault, self.fault = self.fault, None
        assert fault is not None
        return fault

    def skip(self, target: TargetEntry, why: str) -> None:
        self.skipped += ((target, why),)

    def served_by(self) -> Attempt | None:
        """The attempt whose answer the caller gets; the last one where there is none, None before any."""
        attempts = self.attempts
        if not attempts or attempts[-1].target is self.target:
            return attempts[-1] if attempts else None
        found = (attempt for attempt in reversed(attempts) if attempt.target is self.target)
        return next(found, attempts[-1])

    @property
    def elapsed_ms(self) -> float:
        return ((self.left_at or self.ended_at or time.perf_counter()) - self.incoming.received) * 1000

    @property
    def timeout_header(self) -> float | None:
        """Seconds of x-litellm-timeout. Raises InvalidRequest."""
        if not self.incoming.has_options or (text := self.incoming.text(b"x-litellm-timeout")) is None:
            return None
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 3600:
            raise InvalidRequest(
                "x-litellm-timeout must be seconds above 0, up to 3600.", param="x-litellm-timeout"
            )
        return seconds

    @property
    def retries_header(self) -> int | None:
        """x-litellm-num-retries. Raises InvalidRequest."""
        if not self.incoming.has_options or (text := self.incoming.text(b"x-litellm-num-retries")) is None:
            return None
        if not text.isdecimal() or len(text) > 2 or int(text) > 10:
            raise InvalidRequest(
                "x-litellm-num-retries must be a whole number from 0 to 10.", param="x-litellm-num-retries"
            )
        return int(text)

    @property
    def tags(self) -> list[str]:
        text = self.incoming.option(b"x-litellm-tags")
        if text is None:
            return []
        return [tag.strip()[:64] for tag in text.split(",") if tag.strip()][:MOST_TAGS]
