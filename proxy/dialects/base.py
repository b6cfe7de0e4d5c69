"""What a dialect knows: how its API is asked, and what its answers and errors mean."""

from typing import Protocol

from proxy.errors import GatewayError
from proxy.metering.usage import Usage
from proxy.transports.base import RequestHead
from routing.table import ProviderEntry


class MalformedAnswer(Exception):
    """A 200 whose body is not what the API promises. The text is safe to show."""


class Dialect(Protocol):
    name: str

    def head(self, provider: ProviderEntry, credential: str) -> RequestHead:
        """Where a chat completion goes, and its headers; made once for all calls that share it."""

    def headers(self, provider: ProviderEntry, credential: str) -> list[tuple[str, str]]:
        """Sent with every call."""

    def read_answer(self, body: bytes) -> Usage | None:
        """The usage in a whole answer, None where it has none. Raises MalformedAnswer."""

    def error(
        self,
        provider: ProviderEntry,
        status: int,
        body: bytes,
        retry_after: float | None,
        own_key: bool,
        request: bytes = b"",
    ) -> GatewayError:
        """What an answer other than 2xx means to the caller.

        `own_key`: the credential was the caller's own, so a 401 is the caller's. `request`: the caller's
        body, so that its words are not taken for the provider's.
        """

    def refusal(self, provider: ProviderEntry, body: bytes) -> GatewayError | None:
        """What an error that came with 200 says of the request; None where it is the provider's fault."""
