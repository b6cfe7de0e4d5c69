"""One link per provider: its dialect and its bounded pool of connections."""

import asyncio
from collections import deque

from proxy.dialects import Dialect, dialect_of
from proxy.errors import PoolExhausted
from proxy.transports import make_transport, transport_for
from proxy.transports.base import RequestHead, Transport
from routing.table import Connection, ProviderEntry, RoutingTable


class Pool:
    """A transport and the slots that bound how many requests use it at once."""

    def __init__(self, transport_name: str, connection: Connection) -> None:
        self.connection = connection
        self.transport_name = transport_name
        self.transport: Transport = make_transport(transport_name, connection)
        self.in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._retired = False

    def take_free(self) -> bool:
        """Take a slot if one is free."""
        if self.in_use < self.connection.max_connections:
            self.in_use += 1
            return True
        return False

    async def wait_for_free(self, provider: str) -> None:
        """Take a slot, waiting up to the queue time-out. Raises PoolExhausted."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await asyncio.wait_for(turn, self.connection.queue_timeout)
        except BaseException as error:
            self._give_up(turn)
            if not isinstance(error, TimeoutError):
                raise
            raise PoolExhausted(
                f"All {self.connection.max_connections} connections to {provider} are in use.",
                provider=provider,
                retry_after=1,
            ) from None

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self.release()  # the slot arrived together with the cancellation
        elif turn in self._waiting:
            self._waiting.remove(turn)

    def release(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands, in_use stays
                return
        self.in_use -= 1
        if self._retired and not self.in_use:
            self._close_soon()

    def retire(self) -> None:
        """Close once the last request is over; a settings change fails none."""
        self._retired = True
        if not self.in_use:
            self._close_soon()

    def _close_soon(self) -> None:
        closing = asyncio.ensure_future(self.transport.aclose())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)


_closing: set[asyncio.Future[None]] = set()  # the loop keeps only weak references to tasks


class Link:
    """What is the same for every call to one provider under one table."""

    __slots__ = ("_head", "dialect", "pool", "provider")

    def __init__(self, provider: ProviderEntry, pool: Pool) -> None:
        self.provider = provider
        self.pool = pool
        self.dialect: Dialect = dialect_of(provider)
        self._head = self.dialect.head(provider, provider.credential)

    def head(self, caller_credential: str) -> RequestHead:
        """With the caller's own credential where there is one, else the provider's stored one."""
        return self.dialect.head(self.provider, caller_credential) if caller_credential else self._head


class Upstreams:
    def __init__(self, transport_name: str) -> None:
        self._transport_name = transport_name
        self._links: dict[int, Link] = {}

    def link(self, provider: ProviderEntry) -> Link:
        link = self._links.get(provider.id)
        if link is None or link.provider is not provider:
            link = self._links[provider.id] = self._renewed(provider, link)
        return link

    def _renewed(self, provider: ProviderEntry, old: Link | None) -> Link:
        name = transport_for(self._transport_name, provider.base_url)
        if old is not None:
            if (old.pool.connection, old.pool.transport_name) == (provider.connection, name):
                return Link(provider, old.pool)
            old.pool.retire()
        return Link(provider, Pool(name, provider.connection))

    def links(self) -> list[Link]:
        """Of all providers called so far; from any thread."""
        return list(self._links.values())

    def forget_missing(self, table: RoutingTable) -> None:
        """Retire the pools of providers that the table no longer has."""
        kept = {entry.id for entry in table.providers.values()}
        for provider_id in [known for known in self._links if known not in kept]:
            self._links.pop(provider_id).pool.retire()

    async def aclose(self) -> None:
        for link in self._links.values():
            await link.pool.transport.aclose()
        self._links.clear()
