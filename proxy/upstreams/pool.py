"""One link per provider: its dialect and its bounded pool of connections."""

import asyncio
import logging
from dataclasses import dataclass

from proxy.dialects import Dialect, dialect_of
from proxy.errors import PoolExhausted
from proxy.transports import make_transport, transport_for
from proxy.transports.base import RequestHead, Transport
from proxy.upstreams.queueing import Evicted, FairQueue
from routing.table import Connection, ProviderEntry, RoutingTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PoolGauges:
    """One provider's pool as it is now."""

    in_use: int  # requests that hold a slot
    waiting: int  # requests that wait for one
    idle: int  # open connections that no request uses; 0 with httpx, which doesn't tell
    limit: int  # slots
    opened_total: int  # connections opened since the pool was made


class Pool:
    """A transport and the slots that bound how many requests use it at once.

    Slots are held in the name of a gateway key, by its id.
    """

    def __init__(self, transport_name: str, connection: Connection) -> None:
        self.connection = connection
        self.transport_name = transport_name
        self.transport: Transport = make_transport(transport_name, connection)
        self.in_use = 0
        self._held: dict[int | None, int] = {}  # slots by key; none for keys that hold none
        self._queue = FairQueue(connection.max_queue, connection.key_share * connection.max_connections)
        self._retired = False
        self._warming: asyncio.Task[None] | None = None

    def gauges(self) -> PoolGauges:
        return PoolGauges(
            in_use=self.in_use,
            waiting=self._queue.waiting,
            idle=self.transport.idle,
            limit=self.connection.max_connections,
            opened_total=self.transport.opened_total,
        )

    def warm(self, url: str) -> None:
        """Have idle connections opened, if the provider wants some and none are being opened yet."""
        wanted = self.connection.prewarm
        if not wanted or self._retired or (self._warming is not None and not self._warming.done()):
            return
        self._warming = asyncio.get_running_loop().create_task(self.transport.warm(url, wanted))

    def take_free(self, key: int | None) -> bool:
        """Take a slot if one is free."""
        if self.in_use < self.connection.max_connections:
            self.in_use += 1
            self._held[key] = self._held.get(key, 0) + 1
            return True
        return False

    async def wait_for_free(self, key: int | None, provider: str) -> None:
        """Take a slot, waiting up to the queue time-out. Raises PoolExhausted."""
        turn = self._queue.join(key)
        if turn is None:
            raise self._exhausted(provider, f", and {self._queue.waiting} requests wait for one")
        try:
            # Not wait_for(): before Python 3.12 it loses a cancellation that comes together with the slot.
            async with asyncio.timeout(self.connection.queue_timeout):
                await turn
        except Evicted:
            why = f", and of {self._queue.waiting} requests that wait this key has the most"
            raise self._exhausted(provider, why) from None
        except BaseException as error:
            self._give_up(key, turn)
            if not isinstance(error, TimeoutError):
                raise
            waited = f", and none came free within {self.connection.queue_timeout:g} s"
            raise self._exhausted(provider, waited) from None

    def _exhausted(self, provider: str, why: str) -> PoolExhausted:
        most = self.connection.max_connections
        return PoolExhausted(
            f"All {most} connections to {provider} are in use{why}.", provider=provider, retry_after=1
        )

    def _give_up(self, key: int | None, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled() and turn.exception() is None:
            self.release(key)  # the slot arrived together with the cancellation
        else:
            self._queue.leave(key, turn)

    def release(self, key: int | None) -> None:
        held = self._held.pop(key) - 1
        if held:
            self._held[key] = held
        if self._queue.waiting and self._queue.call_next(self._held):
            return  # the slot changes hands, in_use stays
        self.in_use -= 1
        if self._retired and not self.in_use:
            self._close_soon()

    def retire(self) -> None:
        """Close once the last request is over; a settings change fails none."""
        self._retired = True
        if not self.in_use:
            self._close_soon()

    async def aclose(self) -> None:
        if self._warming is not None:
            self._warming.cancel()
        await self.transport.aclose()

    def _close_soon(self) -> None:
        closing = asyncio.ensure_future(self.aclose())
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

    def warm(self) -> None:
        self.pool.warm(self._head.url)

    def can_begin(self, key: int | None) -> bool:
        """Takes a slot if a request with the stored credential can leave at once."""
        return self.pool.transport.can_begin(self._head) and self.pool.take_free(key)

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
            link.warm()
        return link

    def gauges(self) -> dict[str, PoolGauges]:
        """By the slugs of the providers called so far."""
        return {link.provider.slug: link.pool.gauges() for link in self._links.values()}

    def follow(self, table: RoutingTable) -> None:
        """Keep the pools of its providers warm, and retire those of providers that it no longer has."""
        self.forget_missing(table)
        for provider in table.providers.values():
            if provider.connection.prewarm:
                self.link(provider).warm()

    def _renewed(self, provider: ProviderEntry, old: Link | None) -> Link:
        name, why = transport_for(self._transport_name, provider.base_url)
        if old is not None:
            if (old.pool.connection, old.pool.transport_name) == (provider.connection, name):
                return Link(provider, old.pool)
            old.pool.retire()
        if old is None or old.pool.transport_name != name:
            level = logging.DEBUG if name == self._transport_name else logging.INFO
            logger.log(level, "provider %s is called by the %s transport: %s", provider.slug, name, why)
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
            await link.pool.aclose()
        self._links.clear()
