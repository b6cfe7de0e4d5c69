"""The contract of a transport; tests/test_transports.py holds every one to it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from proxy.transports.room import Room

LONGEST_ERROR = 64 * 1024  # bytes that are read of an answer other than 2xx

Sink = Callable[[bytes], bool]
"""Takes a chunk as soon as it is here. False: it did not take it. What it raises, ends the wait."""


NOT_ALLOWED = "its address is not one that this gateway connects to"
"""What callers are told; admins read the reason in the health checks."""


class RequestHead:
    """Where a request goes, and its headers; the same object for every call that shares them.

    `wire` is for the transport: what it makes of the head once, instead of per call.
    """

    __slots__ = ("headers", "url", "wire")

    def __init__(self, url: str, headers: list[tuple[str, str]]) -> None:
        self.url = url
        self.headers = headers  # holds the credential: there is no repr
        self.wire: object = None


@dataclass(slots=True)
class UpstreamRequest:
    head: RequestHead
    body: bytes = field(repr=False)
    stream: bool
    silence: float | None = None
    """Seconds without a single byte after which the provider counts as silent; None: who waits decides."""


class TransportFault(Exception):
    """The call failed below HTTP. The text is safe to show."""


class ConnectFailed(TransportFault):
    """No connection came about: nothing was sent."""


class ConnectionBroken(TransportFault):
    """The connection ended, or what came over it was no HTTP."""


class ConnectionStale(ConnectionBroken):
    """It ended at once and before any byte of an answer, as one does that the other side has forgotten."""


class TransportTimeout(TransportFault):
    """The connect or read time-out passed."""


class UpstreamResponse(Protocol):
    """A response whose status and headers have arrived."""

    @property
    def status(self) -> int: ...

    @property
    def room(self) -> Room:
        """For what is collected whole of its provider's answers."""

    @property
    def over(self) -> bool:
        """Whether the next chunk is known to be b""."""

    def header(self, name: str) -> str | None:
        """By lower-case name."""

    def content(self) -> tuple[str, str]:
        """content-type and content-encoding; "" where it has none."""

    async def read(self) -> bytes:
        """The whole body, or the rest of it. Raises TransportFault, also where it is longer than allowed.

        Of an answer other than 2xx little more than LONGEST_ERROR is read.
        """

    async def next_chunk(self, sink: Sink | None = None) -> bytes:
        """The next bytes as they arrived; b"" at the end. Raises TransportFault.

        What comes during the wait goes to `sink`, and the wait goes on, up to a chunk that it doesn't take;
        the last chunk may pass it by. Whoever was cancelled while waiting may ask again: nothing is lost.
        """

    def allow_silence(self, seconds: float) -> None:
        """From here on, where the request had a bound; httpx keeps the first one."""

    async def aclose(self) -> None:
        """Close the connection if the body was not read to its end. May be called twice."""


class SentRequest(Protocol):
    """A request that is on its way, and that nobody waits for yet."""

    async def head(self) -> UpstreamResponse:
        """As what Transport.send() returns."""

    def abandon(self) -> None:
        """Nobody will wait for it: its connection is closed, unless the whole answer is here."""


class Transport(Protocol):
    def can_begin(self, head: RequestHead) -> bool:
        """Whether begin() may be called for such a request before anything else happens."""

    def begin(self, request: UpstreamRequest) -> SentRequest:
        """Send it, on a connection that is open and idle, before this returns."""

    def send(self, request: UpstreamRequest) -> Awaitable[UpstreamResponse]:
        """POST, without following redirects; to be awaited at once.

        A cancelled call closes its connection at once. Raises TransportFault.
        """

    async def warm(self, url: str, wanted: int) -> None:
        """Open connections to `url` until `wanted` are idle. Raises nothing: it is only help."""

    async def aclose(self) -> None:
        """Close all connections; calls under way fail."""

    @property
    def idle(self) -> int:
        """Open connections that no call uses."""

    @property
    def opened_total(self) -> int:
        """Connections opened so far."""
