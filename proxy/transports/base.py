"""The contract of a transport; tests/test_transports.py holds every one to it."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    url: str
    headers: list[tuple[str, str]] = field(repr=False)  # holds the credential
    body: bytes = field(repr=False)
    stream: bool


class TransportFault(Exception):
    """The call failed below HTTP. The text is safe to show."""


class ConnectFailed(TransportFault):
    """No connection came about: nothing was sent."""


class ConnectionBroken(TransportFault):
    """The connection ended, or what came over it was no HTTP."""


class TransportTimeout(TransportFault):
    """The connect or read time-out passed."""


class UpstreamResponse(Protocol):
    """A response whose status and headers have arrived."""

    @property
    def status(self) -> int: ...

    def header(self, name: str) -> str | None:
        """By lower-case name."""

    async def read(self) -> bytes:
        """The whole body. Raises TransportFault."""

    async def next_chunk(self) -> bytes:
        """The next bytes as they arrived; b"" at the end. Raises TransportFault."""

    async def aclose(self) -> None:
        """Close the connection if the body was not read to its end. May be called twice."""


class Transport(Protocol):
    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """POST, without following redirects. Raises TransportFault."""

    async def aclose(self) -> None: ...
