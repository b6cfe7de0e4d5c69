"""What a dialect knows: how its API is asked, and what its answers and errors mean."""

from typing import Protocol

from proxy.ask import ChatAsk
from proxy.errors import GatewayError
from proxy.transports.base import UpstreamRequest
from proxy.usage import Usage
from routing.table import ProviderEntry


class MalformedAnswer(Exception):
    """A 200 whose body is not what the API promises. The text is safe to show."""


class Dialect(Protocol):
    name: str

    def headers(self, provider: ProviderEntry) -> list[tuple[str, str]]:
        """Sent with every call, without the credential."""

    def chat_request(
        self,
        provider: ProviderEntry,
        headers: list[tuple[str, str]],
        ask: ChatAsk,
        body: bytes,
        credential: str,
    ) -> UpstreamRequest: ...

    def read_answer(self, body: bytes) -> Usage | None:
        """The usage in a whole answer, None where it has none. Raises MalformedAnswer."""

    def error(
        self, provider: ProviderEntry, status: int, body: bytes, retry_after: float | None, own_key: bool
    ) -> GatewayError:
        """What an answer other than 2xx means to the caller.

        `own_key`: the credential was the caller's own, so a 401 is the caller's.
        """
